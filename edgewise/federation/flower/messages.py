"""Requests and answers as Flower's records, whose arrays are read without pickle."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from edgewise.errors import InputError
from edgewise.federating.exchanges import Ask, AskedFor, Parcel
from edgewise.federating.packing import from_vector, to_vector
from edgewise.federating.updates import Arrays

ADAPTERS, NUMBERS, REQUEST, CLIENT = "adapters", "numbers", "request", "client"
HELLO = "hello"  # asks for nothing but who somebody is
HEADER = re.compile(  # of an .npy file, as numpy.lib.format writes it
    rb"\x93NUMPY\x01\x00..\{'descr': '<f4', 'fortran_order': False, "
    rb"'shape': \((\d{1,15}),\), \} *\n",
    re.DOTALL,
)
MOST_FRAMING = 1024  # bytes of an array beside its numbers
MOST_ADAPTERS = 1000  # in a message: a leader gets one of every client


def parcel_record(parcel: Parcel) -> RecordDict:
    """Each adapter as one vector: it travels in hundreds of small arrays otherwise."""
    record = RecordDict()
    if parcel.adapters:
        vectors = {name: Array(to_vector(arrays)) for name, arrays in parcel.adapters.items()}
        record[ADAPTERS] = ArrayRecord(vectors)
    record[NUMBERS] = MetricRecord({name: float(x) for name, x in parcel.numbers.items()})
    return record


def parcel_of(record: RecordDict, like: Arrays) -> Parcel:
    """Raises InputError where it is none, or its adapters are not such as `like`."""
    numbers: Mapping[str, Any] = record.metric_records.get(NUMBERS, {})
    arrays: Mapping[str, Array] = record.array_records.get(ADAPTERS, {})
    most = 4 * sum(x.size for x in like.values()) + MOST_FRAMING
    if len(arrays) > MOST_ADAPTERS:
        raise InputError(f"{len(arrays)} adapters in a message, more than {MOST_ADAPTERS}")
    for name, array in arrays.items():
        if len(array.data) > most:
            raise InputError(f"'{name}' has {len(array.data)} bytes, more than {most}")
    return Parcel(
        {name: from_vector(_vector(array.data), like) for name, array in arrays.items()},
        {str(name): float(x) for name, x in numbers.items() if isinstance(x, int | float)},
    )


def ask_record(request: Ask) -> RecordDict:
    record = parcel_record(request.parcel)
    record[REQUEST] = ConfigRecord({"wanted": str(request.wanted), "round": request.round})
    return record


def ask_of(record: RecordDict, like: Arrays) -> Ask:
    """Raises InputError."""
    said: Mapping[str, Any] = record.config_records.get(REQUEST, {})
    try:
        wanted, number = AskedFor(str(said["wanted"])), int(str(said["round"]))
    except (KeyError, ValueError) as error:
        raise InputError(f"no request: {error}") from None
    return Ask(wanted, number, parcel_of(record, like))


def is_hello(record: RecordDict) -> bool:
    said: Mapping[str, Any] = record.config_records.get(REQUEST, {})
    return said.get("wanted") == HELLO


def about(client: Mapping[str, str]) -> ConfigRecord:
    """What a client says of itself."""
    record = ConfigRecord()
    for name, said in client.items():
        record[name] = said
    return record


def said_by(record: RecordDict) -> dict[str, str]:
    return {str(name): str(x) for name, x in record.config_records.get(CLIENT, {}).items()}


def _vector(data: bytes) -> NDArray[np.float32]:
    """The numbers in an .npy file. `np.load` would take room for as many as its header says, and
    read other kinds of files. Raises InputError."""
    header = HEADER.match(data)
    numbers = data[header.end() :] if header else b""
    if header is None or len(numbers) != 4 * int(header[1]):
        raise InputError(f"no adapter: {len(data)} bytes that are no .npy file of a float32 vector")
    return np.frombuffer(numbers, dtype=np.float32)
