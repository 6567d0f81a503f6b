"""What a SuperNode's process does with a message, called in this process."""

import io
import math

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs the extra 'federated': make test-federated")

from flwr.app import Array, ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp.mod import localdp_mod
from flwr.supercore.task_identity import TaskIdentity

from edgewise.errors import InputError
from edgewise.federating.exchanges import ADAPTER, SAMPLES, UTILITY, Ask, AskedFor, Parcel
from edgewise.federation.flower import client_app
from edgewise.federation.flower.messages import (
    ADAPTERS,
    ask_of,
    ask_record,
    parcel_of,
    parcel_record,
    said_by,
)
from edgewise.federation.learner import begin
from edgewise.federation.settings import FederatedSettings

CLIP, DELTA = 0.05, 1e-5


@pytest.fixture
def settings():
    def make(**options):
        usual = {"rank": 8, "blocks": 2, "steps": 2, "batch": 2, "longest": 64, "rate": 1e-2}
        return FederatedSettings("demo", **{**usual, **options})

    return make


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """A client's answer, and its context."""
    for name in ("_run_id", "_task_id", "_node_id"):  # as a SuperNode's process does
        monkeypatch.setattr(TaskIdentity, name, 1)
    data = tmp_path / "data.txt"
    data.write_text("The Harbour library opens at 09:05. Tram line 12 runs often.\n" * 40)

    def call(ask, settings, state=None, **node):
        config = {"name": "a", "data": str(data), **node}
        context = Context(1, 1, config, state or RecordDict(), settings.to_config())
        kind = MessageType.TRAIN if ask.wanted is AskedFor.TRAIN else MessageType.QUERY
        return client_app.app(Message(ask_record(ask), 1, kind), context).content, context

    return call


def moved(record, start):
    return parcel_of(record, start).adapters[ADAPTER]


def test_what_a_client_sends_is_clipped_and_noised_where_that_is_asked_for(
    answer, settings, monkeypatch
):
    plain, start = settings(), begin(settings())
    ask = Ask(AskedFor.TRAIN, 1, Parcel({ADAPTER: start}))
    honest = moved(answer(ask, plain)[0], start)
    far = math.hypot(*(float(np.linalg.norm(x)) for x in honest.values()))
    assert far > 2 * CLIP
    chosen = settings(epsilon=1.0, clip=CLIP, delta=DELTA)
    said = answer(ask, chosen)[0]
    private, numbers = moved(said, start), parcel_of(said, start).numbers
    assert list(numbers) == [SAMPLES]  # a loss follows from the records, too
    monkeypatch.setattr(localdp_mod, "add_gaussian_noise_inplace", lambda arrays, deviation: None)
    clipped = moved(answer(ask, chosen)[0], start)
    for name, x in honest.items():
        assert np.allclose(clipped[name], x * CLIP / far, atol=1e-6)
    noise = np.concatenate([(private[name] - x).ravel() for name, x in clipped.items()])
    said = 2 * CLIP * math.sqrt(2 * math.log(1.25 / DELTA))
    assert len(noise) > 500 and np.std(noise) == pytest.approx(said, rel=0.15)


def test_a_particle_is_remembered_from_one_process_to_the_next(answer, settings):
    chosen, start = settings(algorithm="fedpso"), begin(settings())
    said, context = answer(Ask(AskedFor.SWIM, 1, Parcel({ADAPTER: start})), chosen)
    assert math.isfinite(parcel_of(said, start).numbers[UTILITY])
    sent, _ = answer(Ask(AskedFor.SEND, 1), chosen, context.state)
    assert any(x.any() for x in moved(sent, start).values())
    none, _ = answer(Ask(AskedFor.SEND, 1), chosen)
    assert "no particle" in said_by(none)["fault"]


def test_a_client_without_data_says_so(answer, settings):
    ask = Ask(AskedFor.TRAIN, 1, Parcel({ADAPTER: begin(settings())}))
    for epsilon in (0.0, 1.0):
        said, _ = answer(ask, settings(epsilon=epsilon), data="")
        assert "has no data" in said_by(said)["fault"]


def test_records_that_are_no_adapter_are_refused(settings):
    start = begin(settings())
    good = parcel_record(Parcel({ADAPTER: start}, {"samples": 3.0}))
    assert parcel_of(good, start).numbers == {"samples": 3.0}
    for vector, reason in (
        (np.zeros(3, dtype=np.float32), "was expected"),
        (np.zeros(10**6, dtype=np.float32), "bytes, more than"),
    ):
        bad = RecordDict({ADAPTERS: ArrayRecord({ADAPTER: Array(vector)})})
        with pytest.raises(InputError, match=reason):
            parcel_of(bad, start)
    with pytest.raises(InputError, match="no request"):
        ask_of(RecordDict(), start)


def npy(array, **header):
    """An .npy file, with what else its header says."""
    file = io.BytesIO()
    said = np.lib.format.header_data_from_array_1_0(array) | header
    np.lib.format.write_array_header_1_0(file, said)
    return file.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04" + bytes(60),  # a zip archive's
        b"\x80\x04K\x01.",  # a pickle
        npy(np.zeros(2, np.float32))[:-1],
        npy(np.zeros(2, np.float32), shape=(10**14,)),
        npy(np.zeros(2, np.float32), descr="|O"),
        npy(np.zeros(2)),
        npy(np.zeros((1, 2), np.float32)),
    ],
)
def test_bytes_that_are_no_vector_are_refused_before_anything_is_made_of_them(data):
    like = {"x": np.zeros(2, np.float32)}
    bad = Array("float32", (2,), "numpy.ndarray", data)
    with pytest.raises(InputError, match="no adapter"):
        parcel_of(RecordDict({ADAPTERS: ArrayRecord({ADAPTER: bad})}), like)
