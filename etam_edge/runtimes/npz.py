"""Arrays from a NumPy archive that may hold anything: their names, types and shapes are known beforehand.

Nothing is decompressed or allocated whose size is not known. A file of a few megabytes can claim to hold arrays of many
gigabytes, in members that nobody asks for as well.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Mapping
from typing import IO

import numpy as np

from etam_edge.bundle import TensorSpec
from etam_edge.errors import shown

HEADER = 10_240
"""Bytes of a member before its numbers: NumPy refuses longer headers."""


class Npz:
    """The members of an archive that `numpy.savez` wrote."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        self._count = len(archive.infolist())

    def text(self, name: str, most: int) -> str:
        """An array of one string.

        Args:
            name: of the member.
            most: characters that it may have.

        Raises:
            ValueError: it is missing, something else, or longer.
        """
        info = self._info(name, 4 * most)
        with self._archive.open(info) as member:
            shape, dtype = _header(member, name)
            require(dtype.kind == "U" and shape == () and dtype.itemsize <= 4 * most, f"{name} is {dtype} {shape}")
            return str(np.frombuffer(_content(member, name, dtype.itemsize), dtype).reshape(()))

    def leading(self, name: str) -> int:
        """Length of the leading axis that the header of a member states.

        Raises:
            ValueError: it is missing or has no axes.
        """
        require(name in self._infos, f"{name} is missing")
        with self._archive.open(self._infos[name]) as member:
            shape, _ = _header(member, name)
        require(len(shape) > 0, f"{name} is a single number")
        return shape[0]

    def arrays(
        self, wanted: Mapping[str, TensorSpec], optional: Mapping[str, TensorSpec], also: Collection[str] = ()
    ) -> dict[str, np.ndarray]:
        """Arrays of these names, types and shapes. They must not be written to.

        Args:
            wanted: all of them must be there.
            optional: may be there.
            also: names of members that are not read; there must be no others.

        Raises:
            ValueError: a member is missing, not known, damaged, or of another type or shape.
        """
        found = {name: tensor for name, tensor in {**wanted, **optional}.items() if name in self._infos}
        missing = [name for name in wanted if name not in found]
        unknown = [name for name in self._infos if name not in found and name not in also]
        require(not missing, f"{', '.join(missing[:3])} is missing")
        require(not unknown, f"it holds {shown(', '.join(unknown[:3]))}, which is not known")
        require(len(self._infos) == self._count, "it holds a name twice")
        return {name: self._array(name, tensor) for name, tensor in found.items()}

    def _array(self, name: str, wanted: TensorSpec) -> np.ndarray:
        expected, shape = np.dtype(wanted.dtype), wanted.sized(0)
        size = math.prod(shape) * expected.itemsize
        info = self._info(name, size)
        with self._archive.open(info) as member:
            found = _header(member, name)
            require(found == (shape, expected), f"{name} is {found[1]} {found[0]}, and should be {expected} {shape}")
            return np.frombuffer(_content(member, name, size), expected).reshape(shape)

    def _info(self, name: str, size: int) -> zipfile.ZipInfo:
        """The entry of a member that claims at most `size` bytes beside its header."""
        info = self._infos.get(name)
        if info is None:
            raise ValueError(f"{name} is missing")
        require(info.file_size <= size + HEADER, f"{name} has {info.file_size} bytes, too many for what it should be")
        return info


def _header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype]:
    require(np.lib.format.read_magic(member) == (1, 0), f"{name} has a header of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    require(not fortran, f"{name} is in column-major order, and should be in row-major order")
    return shape, dtype


def _content(member: IO[bytes], name: str, size: int) -> bytes:
    data: bytes = member.read(size)
    # Reading to the end also compares the member's checksum.
    require(len(data) == size and not member.read(1), f"{name} is cut short, or goes on after its end")
    return data


def require(condition: bool, otherwise: str) -> None:
    """
    Raises:
        ValueError: the condition does not hold; `otherwise` says what is wrong.
    """
    if not condition:
        raise ValueError(otherwise)
