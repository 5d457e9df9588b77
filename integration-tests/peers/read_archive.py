"""A second reader of the archive format, written from docs/archive-format.md alone; of the product's code it uses nothing.

usage: read_archive.py list ARCHIVE          the entries, one JSON object a line
       read_archive.py check ARCHIVE         checks every byte; prints the sums
       read_archive.py cat ARCHIVE NAME      one file on standard output, read by seeking; the bytes read on standard error
"""

import hashlib
import json
import re
import struct
import sys
import zlib

from blake3 import blake3

START = bytes.fromhex("1f8b08040000000000ff")
PIECE = 8000
FOOTER = 26 + 72


class Damaged(Exception):
    pass


def ensure(true, what):
    if not true:
        raise Damaged(what)


def empty(kind, payload):
    return START + struct.pack("<H2sH", len(payload) + 4, kind, len(payload)) + payload + b"\3\0" + bytes(8)


class Archive:
    def __init__(self, path):
        self.file = open(path, "rb")
        self.size = self.file.seek(0, 2)
        self.bytes_read = 0
        ensure(self.size >= FOOTER, "it is too short")
        last = self.read(self.size - FOOTER, FOOTER)
        payload = last[16 : 16 + 72]
        magic, version, self.toc_offset, packed, self.toc_bytes, sha, crc = struct.unpack("<8sIQQQ32sI", payload)
        ensure(magic == b"EPARCH01" and version == 1, "no footer")
        ensure(last == empty(b"EF", payload) and crc == zlib.crc32(payload[:68]), "the footer is damaged")
        pieces = (packed + PIECE - 1) // PIECE
        ensure(self.toc_offset + packed + 26 * pieces + FOOTER == self.size, "the table of contents is elsewhere")
        self.packed, at = b"", self.toc_offset
        while len(self.packed) < packed:
            length = min(PIECE, packed - len(self.packed))
            member = self.read(at, length + 26)
            ensure(member == empty(b"ET", member[16 : 16 + length]), f"the piece at byte {at} is damaged")
            self.packed += member[16 : 16 + length]
            at += len(member)
        ensure(hashlib.sha256(self.packed).digest() == sha, "the table of contents is another one")

    def read(self, at, length):
        self.file.seek(at)
        data = self.file.read(length)
        ensure(len(data) == length, f"it ends before byte {at + length}")
        self.bytes_read += length
        return data

    def table(self):
        inflate = zlib.decompressobj(-15)
        text = inflate.decompress(self.packed, self.toc_bytes + 1)
        ensure(len(text) == self.toc_bytes and inflate.eof and not inflate.unused_data, "the table has another size")
        lines = text.decode().split("\n")
        ensure(lines.pop() == "", "the table is cut off")
        head, *rows, end = (json.loads(line) for line in lines)
        ensure(head["format"] == "echopilot-archive" and head["version"] == 1, "another format")
        ensure(list(end) == ["end"], "the table has no end")
        members = [Member(*row["m"]) for row in rows if list(row) == ["m"]]
        entries = [row["e"] for row in rows if list(row) == ["e"]]
        ensure(len(members) + len(entries) == len(rows), "a line of no known kind")
        return members, entries, end["end"]

    def content(self, member):
        data = self.read(member.offset, member.size)
        where = f"the member at byte {member.offset}: "
        ensure(blake3(data).hexdigest() == member.sum, where + "its digest")
        head = START + struct.pack("<H2sHII", 12, b"EM", 8, member.size, member.length)
        ensure(data[:24] == head, where + "its head")
        content = zlib.decompress(data[24:-8], -15)
        ensure(data[-8:] == struct.pack("<II", zlib.crc32(content), len(content)), where + "its checksum")
        ensure(len(content) == member.length and blake3(content).hexdigest() == member.key, where + "its content")
        return content


class Member:
    def __init__(self, offset, size, length, key, digest):
        self.offset, self.size, self.length, self.key, self.sum = offset, size, length, key, digest


def unescape(text):
    return re.sub(rb"%([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), text.encode())


def number(value, width):
    digits = width - 1
    if 0 <= value < 8**digits:
        return b"%0*o\0" % (digits, value)
    field = bytearray(value.to_bytes(width, "big", signed=True))
    field[0] |= 0x80
    return bytes(field)


def block(kind, name, link, mode, uid, gid, size, mtime):
    head = name[:100].ljust(100, b"\0") + number(mode, 8) + number(uid, 8) + number(gid, 8) + number(size, 12) + number(mtime, 12)
    tail = kind + link[:100].ljust(100, b"\0") + b"ustar\00000" + bytes(64) + number(0, 8) + number(0, 8) + bytes(167)
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * 32) + tail


def filled(data):
    return data + bytes(-len(data) % 512)


def header(entry):
    name, link = unescape(entry["path"]), unescape(entry.get("link", ""))
    if entry["type"] == "dir":
        name += b"/"
    out = b""
    if entry["ns"]:
        total = entry["mtime"] * 10**9 + entry["ns"]
        rest = b" mtime=%s%d.%09d\n" % (b"-" if total < 0 else b"", abs(total) // 10**9, abs(total) % 10**9)
        length = next(n for n in range(99) if n == len(rest) + len(str(n)))
        text = b"%d%s" % (length, rest)
        out += block(b"x", b"././@PaxHeader", b"", 0o644, 0, 0, len(text), 0) + filled(text)
    for kind, text in ((b"K", link), (b"L", name)):
        if len(text) > 100:
            out += block(kind, b"././@LongLink", b"", 0o644, 0, 0, len(text) + 1, 0) + filled(text + b"\0")
    kind = {"file": b"0", "link": b"1", "symlink": b"2", "dir": b"5"}[entry["type"]]
    return out + block(kind, name, link, *(entry[key] for key in ("mode", "uid", "gid", "size", "mtime")))


def check(archive):
    members, entries, end = archive.table()
    at = 0
    for member in members:
        gap = member.offset - at
        ensure(gap >= 0, "members overlap")
        ensure(gap == 0 or gap >= 26 and archive.read(at, gap) == empty(b"EP", bytes(gap - 26)), f"the padding at byte {at}")
        at = member.offset + member.size
    ensure(at == archive.toc_offset, "members do not reach the table")
    # The tar as a stream; only one member and one header are held at a time.
    contents = (archive.content(member) for member in members)
    waiting = b""

    def take(length):
        nonlocal waiting
        while length > 0:
            if not waiting:
                waiting = next(contents, b"")
                ensure(waiting, "the tar ends too early")
            piece, waiting = waiting[:length], waiting[length:]
            length -= len(piece)
            yield piece

    place, seen = 0, {"entries": 0, "files": 0, "bytes": 0, "members": len(members), "tar": sum(m.length for m in members)}
    for entry in entries:
        expected = header(entry)
        ensure(b"".join(take(len(expected))) == expected, f"the header of {entry['path']}")
        place += len(expected)
        ensure(place == entry["data"], f"{entry['path']} begins elsewhere")
        digest = blake3()
        for piece in take(entry["size"]):
            digest.update(piece)
        ensure(entry["type"] != "file" or digest.hexdigest() == entry["blake3"], f"the content of {entry['path']}")
        fill = -entry["size"] % 512
        ensure(not any(b"".join(take(fill))), "padding that is not zeros")
        place += entry["size"] + fill
        seen["entries"] += 1
        seen["files"] += entry["type"] == "file"
        seen["bytes"] += entry["size"]
    ensure(b"".join(take(1024)) == bytes(1024) and not waiting and next(contents, None) is None, "the end of the tar")
    ensure(seen == end, f"the sums are {seen} and not {end}")
    return seen


def cat(archive, name, out):
    members, entries, _ = archive.table()
    by_name = {entry["path"]: entry for entry in entries}
    entry = by_name[name]
    if entry["type"] == "link":
        entry = by_name[entry["link"]]
    begin, end, at, digest = entry["data"], entry["data"] + entry["size"], 0, blake3()
    for member in members:
        if at < end and at + member.length > begin:
            piece = archive.content(member)[max(begin - at, 0) : end - at]
            digest.update(piece)
            out.write(piece)
        at += member.length
    ensure(digest.hexdigest() == entry["blake3"], "the content is another")


def main():
    what, path, *rest = sys.argv[1:]
    try:
        archive = Archive(path)
        if what == "list":
            for entry in archive.table()[1]:
                print(json.dumps(entry))
        elif what == "check":
            print(json.dumps(check(archive)))
        else:
            cat(archive, rest[0], sys.stdout.buffer)
            print(archive.bytes_read, file=sys.stderr)
    except (Damaged, zlib.error, ValueError, KeyError) as error:
        sys.exit(f"{path}: {error!r}")


if __name__ == "__main__":
    main()
