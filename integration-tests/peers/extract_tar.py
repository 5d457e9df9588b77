"""Extracts an archive with Python's tarfile, everything as it was.

usage: extract_tar.py ARCHIVE FOLDER
"""

import sys
import tarfile


def main():
    archive, folder = sys.argv[1:]
    with tarfile.open(archive, errors="surrogateescape", encoding="utf-8") as tar:
        if hasattr(tarfile, "fully_trusted_filter"):
            tar.extractall(folder, numeric_owner=True, filter="fully_trusted")
        else:
            tar.extractall(folder, numeric_owner=True)


if __name__ == "__main__":
    main()
