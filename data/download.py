"""Fetch one file from the network, when a reader asks for it: whole and verified, or not at all, and going on where it broke "
  "off."""

import hashlib
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from tqdm import tqdm

AGENT = {"User-Agent": "from-bytes-to-chat (a course; fetches single files on request)"}


def download(address: str, path: Path, sha256: str | None = None) -> None:
    """Fetch `address` into the file `path`, which appears only once all of it is there and its sha256 is right.

    What came before a break is kept as `path` with ".part" at its end, and fetched no second time. Raises ValueError that says
    what went wrong and what to do.
    """
    part = path.with_name(f"{path.name}.part")
    there = part.stat().st_size if part.exists() else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        request = urllib.request.Request(address, headers=AGENT | ({"Range": f"bytes={there}-"} if there else {}))
        with urllib.request.urlopen(request, timeout=60) as answer:
            if there and answer.status != 206:                                # the server begins at the beginning, so do we
                there = 0
            length = answer.headers.get("Content-Length")
            total = there + int(length) if length else None
            with open(part, "ab" if there else "wb") as out, tqdm(
                    total=total, initial=there, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                while block := answer.read(2**18):
                    out.write(block)
                    bar.update(len(block))
    except HTTPError as error:
        if error.code != 416 or not there:                                    # 416: nothing is left to fetch
            raise ValueError(f"{address} answers {error.code} {error.reason}; check the name or number, or try later") from None
        total = None
    except (OSError, HTTPException) as error:
        kept = part.stat().st_size if part.exists() else 0
        raise ValueError(f"could not fetch {address} ({error}); go online, or set HTTPS_PROXY, and give the same command again: "
                         f"it goes on after the {kept:,} bytes that are here") from None
    size = part.stat().st_size
    if total is not None and size != total:
        raise ValueError(f"{address} broke off after {size:,} of {total:,} bytes; give the same command again to go on")
    if sha256 and file_digest(part) != sha256:
        found = file_digest(part)
        part.unlink()
        raise ValueError(f"{path.name} is damaged: its sha256 is {found[:12]}..., not {sha256[:12]}...; it was removed, "
                         "give the same command again")
    os.replace(part, path)


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
