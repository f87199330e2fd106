"""Large file uploads for any web app: a WSGI middleware, and the JavaScript library that it serves."""

from .errors import IncomingError
from .handover import FinishedUpload
from .middleware import Incoming, Permission
from .upload import State, Upload

__version__ = "0.1.0"

__all__ = ["FinishedUpload", "Incoming", "IncomingError", "Permission", "State", "Upload", "__version__"]
