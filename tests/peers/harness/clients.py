"""Users' mail programs, each with a configuration of its own in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from harness.house import Person
from harness.programs import run


def _crlf(octets: bytes) -> bytes:
    return octets.replace(b"\n", b"\r\n")


def _write_secret(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o600)
    return file


def send_by_msmtp(
    folder: Path,
    port: int,
    person: Person,
    recipient: str,
    content: bytes,
    *,
    ca: Path,
    tls_at_once: bool,
    auth: str = "on",
    user: Path | None = None,
) -> None:
    """
    Send a message by msmtp, over TLS and with a password.

    Shape:  `auth` is the mechanism, or "on" for what msmtp likes best; `user` holds a certificate to show, and its key.
    """
    shown = f"tls_cert_file {user}\ntls_key_file {user}\n" if user else ""
    rc = _write_secret(
        folder / "msmtprc",
        f"account default\nhost localhost\nport {port}\ntls on\ntls_starttls {'off' if tls_at_once else 'on'}\n"
        f"tls_trust_file {ca}\n{shown}auth {auth}\nuser {person.address}\npassword {person.password}\nfrom {person.address}\n",
    )
    run(["msmtp", f"--file={rc}", recipient], octets=content.replace(b"\r\n", b"\n"))


def fetch_by_mpop(
    folder: Path,
    port: int,
    person: Person,
    *,
    ca: Path | None,
    tls_at_once: bool = True,
    keep: bool = True,
    auth: str = "on",
    user: Path | None = None,
) -> list[bytes]:
    """Fetch new messages by mpop, in the order in which it got them; `auth` and `user` as for msmtp."""
    inbox = folder / "mpop"
    for part in ("new", "cur", "tmp"):
        (inbox / part).mkdir(parents=True, exist_ok=True)
    shown = f"tls_cert_file {user}\ntls_key_file {user}\n" if user else ""
    tls = (
        f"tls on\ntls_starttls {'off' if tls_at_once else 'on'}\ntls_trust_file {ca}\n{shown}auth {auth}\n"
        if ca
        else "tls off\nauth user\n"
    )
    rc = _write_secret(
        folder / "mpoprc",
        f"account default\nhost localhost\nport {port}\n{tls}user {person.address}\npassword {person.password}\n"
        f"delivery maildir {inbox}\nuidls_file {folder}/uidls\nkeep {'on' if keep else 'off'}\nreceived_header off\n",
    )
    before = set(inbox.glob("new/*"))
    run(["mpop", f"--file={rc}"])
    files = set(inbox.glob("new/*")) - before
    return [_crlf(file.read_bytes()) for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]


def fetch_by_fetchmail(folder: Path, port: int, person: Person, *, ca: Path | None, keep: bool = True) -> list[bytes]:
    """Fetch messages by fetchmail, each given to a command that writes it into a file."""
    inbox = folder / "fetchmail"
    inbox.mkdir(exist_ok=True)
    tls = f'ssl sslcertck sslcertfile "{ca}"' if ca else "sslproto ''"
    rc = _write_secret(
        folder / "fetchmailrc",
        f"set no bouncemail\nset invisible\npoll localhost protocol pop3 port {port} uidl no envelope\n"
        f'  user "{person.address}" password "{person.password}" is "nobody" here {tls}\n'
        f"  {'keep' if keep else 'nokeep'} fetchall no rewrite pass8bits no mimedecode no dropstatus\n"
        f"  mda \"/bin/sh -c 'cat >$(mktemp {inbox}/XXXXXXXX)'\"\n",
    )
    environment = {"FETCHMAILHOME": str(folder), "HOME": str(folder)}
    run(
        ["fetchmail", "--fetchmailrc", rc, "--pidfile", folder / "fetchmail.pid", "--idfile", folder / "ids", "--nodetach"],
        env=environment,
    )
    files = sorted(inbox.glob("*"), key=lambda file: file.stat().st_mtime_ns)
    messages = [_crlf(file.read_bytes()) for file in files]
    for file in files:
        file.unlink()
    return messages


def fetch_by_curl(url: str, person: Person, *, ca: Path | None) -> bytes:
    """Fetch what a URL names by curl."""
    trust = ["--ssl-reqd", "--cacert", str(ca)] if ca else []
    return run(["curl", "--silent", "--show-error", *trust, "--user", f"{person.address}:{person.password}", url]).stdout


def send_by_curl(url: str, person: Person, recipient: str, file: Path, *, ca: Path) -> None:
    """Send a file as a message by curl."""
    account = ["--ssl-reqd", "--cacert", ca, "--user", f"{person.address}:{person.password}"]
    run(
        ["curl", "--silent", "--show-error", *account, "--mail-from", person.address, "--mail-rcpt", recipient, "-T", file, url]
    )
