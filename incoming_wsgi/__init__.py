"""Large file uploads for any web app: a WSGI middleware, and the JavaScript library that it serves."""

from .delivery.handover import FinishedUpload
from .errors import IncomingError
from .gates.first_look import FirstBytes
from .middleware import Incoming, Permission
from .upload import State, Upload

__version__ = "0.1.0"

__all__ = ["FinishedUpload", "FirstBytes", "Incoming", "IncomingError", "Permission", "State", "Upload", "__version__"]
