"""The HTTP door: OpenAI's API, and what the cluster does."""

from edgewise.serving.app import create_app
from edgewise.serving.server import HttpServer

__all__ = ["HttpServer", "create_app"]
