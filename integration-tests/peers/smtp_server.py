"""An SMTP server for the tests: STARTTLS with a certificate of its own, AUTH, and what a server may do wrong.

Prints its port. Arguments: a folder, into which each mail goes as N.eml and the certificate as ca.pem. The file `plan` in it says what the next
answers are, one a line, first one used first: `rcpt ADDRESS 550 text` (each time that address is named), `data 451 text` (once).
The user is `ops`, the password `right`.
"""

import asyncio
import datetime
import ipaddress
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

folder = pathlib.Path(sys.argv[1])


def certificate():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


def plan():
    path = folder / "plan"
    return path.read_text().splitlines() if path.exists() else []


class Handler:
    mails = 0

    async def handle_RCPT(self, server, session, envelope, address, options):
        for line in plan():
            words = line.split(" ", 3)
            if words[:2] == ["rcpt", address]:
                return " ".join(words[2:])
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        lines = plan()
        for line in lines:
            if line.startswith("data "):
                lines.remove(line)
                (folder / "plan").write_text("\n".join(lines))
                return line[5:]
        Handler.mails += 1
        head = "".join(f"X-Envelope-To: {address}\r\n" for address in envelope.rcpt_tos).encode()
        part = folder / f"{Handler.mails}.part"
        part.write_bytes(head + envelope.content)
        part.rename(folder / f"{Handler.mails}.eml")
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"ops", b"right"))


def session():
    return SMTP(Handler(), hostname="localhost", tls_context=context, require_starttls=True, auth_required=True, authenticator=authenticate)


async def serve():
    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


context = certificate()
asyncio.run(serve())
