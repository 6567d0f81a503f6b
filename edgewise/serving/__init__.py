"""The HTTP door: OpenAI's API, and what the cluster does."""

from edgewise.serving.adapters import AdapterShelf
from edgewise.serving.app import create_app
from edgewise.serving.gate import Gate
from edgewise.serving.requests import Model
from edgewise.serving.server import HttpServer

__all__ = ["AdapterShelf", "Gate", "HttpServer", "Model", "create_app"]
