"""Starts PyPI `moto`, an S3-compatible server, on a loopback port with one bucket in it, and prints the port.

usage: s3_server.py BUCKET
"""

import sys
import threading

import boto3
from botocore.config import Config
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_):
        pass


def main():
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="a test",
        aws_secret_access_key="a test",
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=sys.argv[1])
    print(server.server_port, flush=True)
    thread.join()


if __name__ == "__main__":
    main()
