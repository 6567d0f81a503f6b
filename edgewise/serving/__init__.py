"""The HTTP door: OpenAI's API, and what the cluster does."""

from edgewise.serving.admission import Admission
from edgewise.serving.app import create_app
from edgewise.serving.requests import Model
from edgewise.serving.server import HttpServer

__all__ = ["Admission", "HttpServer", "Model", "create_app"]
