"""Starts PyPI `localstripe` 1.15.10 on a loopback port, a free one if none is given, and prints the port.

usage: localstripe_server.py [PORT]

A program of its own because of its licence, and started this way because its own command binds every interface and reads a pickle
from the temporary folder.
"""

import socket
import sys

from aiohttp import web
from localstripe.server import app


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0))
    print(listener.getsockname()[1], flush=True)
    web.run_app(app, sock=listener, print=None, access_log=None)


if __name__ == "__main__":
    main()
