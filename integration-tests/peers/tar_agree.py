"""Python's tarfile and GNU tar list an archive; whatever they see differently is printed.

usage: tar_agree.py ARCHIVE [TAR]     prints the number of entries that both agree on; exit code 1 if there are others
"""

import datetime
import re
import stat
import subprocess
import sys
import tarfile

LINE = re.compile(rb"^(\S{10}) (\d+)/(\d+) +(\d+) (-?\d+-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) +(.*)$", re.S)
KINDS = {tarfile.REGTYPE: stat.S_IFREG, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK}
EPOCH = datetime.datetime(1970, 1, 1)


def unescape(text):
    plain = {b"n": b"\n", b"t": b"\t", b"\\": b"\\", b"r": b"\r", b"f": b"\f", b"b": b"\b", b"v": b"\v", b"a": b"\a", b" ": b" "}
    return re.sub(rb"\\([0-7]{3}|.)", lambda m: plain.get(m[1]) or bytes([int(m[1], 8)]), text)


def by_gnu_tar(archive, program):
    words = [program, "-tvf", archive, "--quoting-style=escape", "--numeric-owner", "--full-time", "--utc"]
    done = subprocess.run(words, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}, capture_output=True, check=True)
    for line in done.stdout.splitlines():
        mode, uid, gid, size, when, name = LINE.match(line).groups()
        mode, _, link = mode.decode(), *name.partition(b" -> ")[1:]
        if mode[0] == "h":
            name, _, link = name.partition(b" link to ")
        elif mode[0] == "l":
            name = name.partition(b" -> ")[0]
        else:
            link = b""
        second = datetime.datetime.strptime(when.decode()[:19], "%Y-%m-%d %H:%M:%S") - EPOCH
        yield mode, int(uid), int(gid), int(size), round(second.total_seconds()), unescape(name).rstrip(b"/"), unescape(link)


def by_python(archive):
    with tarfile.open(archive, errors="surrogateescape", encoding="utf-8") as tar:
        for member in tar:
            kind = "h" if member.islnk() else stat.filemode(KINDS[member.type])[0]
            mode = kind + stat.filemode(stat.S_IFREG | member.mode)[1:]
            size = member.size if member.isreg() else 0
            name, link = (text.encode("utf-8", "surrogateescape") for text in (member.name, member.linkname))
            yield mode, member.uid, member.gid, size, member.mtime // 1, name.rstrip(b"/"), link


def main():
    archive, program = (*sys.argv[1:], "tar")[:2]
    one, two = list(by_gnu_tar(archive, program)), list(by_python(archive))
    # Python's times are floats and GNU tar prints what is left of the point: a second is as near as a list can be compared.
    alike = lambda a, b: a[:4] + a[5:] == b[:4] + b[5:] and abs(a[4] - b[4]) <= 1
    different = [pair for pair in zip(one, two) if not alike(*pair)]
    for pair in different[:20]:
        print("GNU tar %r\nPython  %r" % pair)
    print(len(two))
    sys.exit(len(one) != len(two) or bool(different))


if __name__ == "__main__":
    main()
