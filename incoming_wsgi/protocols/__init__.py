"""The dialects in which clients send files. They know the receiver, and neither sockets nor each other."""
