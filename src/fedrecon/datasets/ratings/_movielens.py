"""MovieLens 1M from GroupLens, fetched once and checked."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from fedrecon.data._cache import cache_folder
from fedrecon.datasets.ratings._files.source import Source, reason
from fedrecon.errors import DataError


@dataclass(frozen=True)
class Archive:
    """An archive on the network.

    Attributes:
        name: The name of the archive in messages.
        url: The address from which the archive is downloaded.
        md5: The MD5 checksum of the archive.
        member: The name of the rating file in the archive.
        member_md5: The MD5 checksum of the rating file.
    """

    name: str
    url: str
    md5: str
    member: str
    member_md5: str


MOVIELENS_1M = Archive(
    name="MovieLens 1M",
    url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    md5="c4d9eecfca2ab87c1945afe126590906",
    member="ml-1m/ratings.dat",
    member_md5="a89aa3591bc97d6d4e0c89459ff39362",
)


def download(archive: Archive = MOVIELENS_1M, folder: str | os.PathLike[str] | None = None) -> Path:
    """Fetches an archive, unless it is there already and undamaged.

    Args:
        archive: The archive to download; MovieLens 1M by default.
        folder: The folder in which the archive is kept; by default `cache_folder()`.

    Returns:
        The path of the archive, in which all checksums are right.

    Raises:
        DataError: The archive cannot be fetched or kept, or a checksum is wrong; the message says what to
            fetch from where instead, and how to use it.
    """
    import pooch  # loads what speaks to the network

    folder = cache_folder() if folder is None else Path(folder)
    try:
        fetched = pooch.retrieve(
            archive.url,
            known_hash=f"md5:{archive.md5}",
            fname=archive.url.rsplit("/", 1)[-1],
            path=folder,
            downloader=pooch.HTTPDownloader(chunk_size=1 << 16, timeout=30),
            processor=lambda path, action, _: _checked(Path(path), action, archive),
        )
    except (OSError, ValueError) as error:  # the network's errors are OSErrors
        raise DataError(
            f"{archive.name} could not be fetched into {folder}: {reason(error)}. "
            f"Instead, fetch {archive.url} (md5 {archive.md5}) by other means and give its path, "
            "packed as it is: --data PATH (in Python, path=PATH)"
        ) from error
    return Path(fetched)


def _checked(path: Path, action: str, archive: Archive) -> Path:
    """The archive, whose rating file is right if it was fetched just now; otherwise it is removed."""
    if action != "fetch":  # Pooch's word for a file that is there already
        try:
            with Source(path, archive.member).open() as member:
                md5 = hashlib.file_digest(member, "md5").hexdigest()
            if md5 != archive.member_md5:
                raise DataError(f"the md5 of {archive.member} must be {archive.member_md5}, got {md5}")
        except DataError:
            path.unlink(missing_ok=True)
            raise
    return path
