"""Fetch one source distribution through pip's own configuration: fetch_sdist.py NAME VERSION SHA256 OUT_DIR.

`pip download --no-binary` would run the package's build backend only to learn metadata that nobody asked for, so the
archive is taken with pip's package finder and session (its index, find-links, proxy and certificate settings). Where
pip's internals differ from the expected, `pip download` itself is the way.
"""

import hashlib
import subprocess
import sys
from pathlib import Path


def fetch_with_finder(name: str, version: str, out: Path) -> Path:
    from pip._internal.commands import create_command

    command = create_command("download")
    options, _ = command.parse_args([])
    with command.main_context():
        session = command.get_default_session(options)
        for candidate in command._build_package_finder(options, session).find_all_candidates(name):
            link = candidate.link
            if str(candidate.version) != version or not link.filename.endswith(".tar.gz"):
                continue
            path = out / link.filename
            if link.is_file:
                path.write_bytes(Path(link.file_path).read_bytes())
            else:
                response = session.get(link.url_without_fragment)
                response.raise_for_status()
                path.write_bytes(response.content)
            return path
    raise LookupError(f"the package index lists no source distribution of {name} {version}")


def fetch_with_pip(name: str, version: str, out: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", f"{name}=={version}", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "-q", "-d", str(out)], check=True, timeout=900)
    return next(path for path in out.glob("*.tar.gz") if version in path.name)


def main() -> None:
    name, version, sha256, out = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    out.mkdir(parents=True, exist_ok=True)
    try:
        path = fetch_with_finder(name, version, out)
    except Exception as error:  # any mismatch with this pip's internals
        print(f"  pip's finder could not fetch it ({error!r}); trying pip download", file=sys.stderr)
        path = fetch_with_pip(name, version, out)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        path.unlink()
        sys.exit(f"{name} {version}: SHA-256 is {digest}, expected {sha256}")
    print(path)


if __name__ == "__main__":
    main()
