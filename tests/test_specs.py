"""Models, workloads, devices, links, clusters; and cluster files, good and bad."""

import dataclasses
import math
import re
import tomllib
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from edgewise.cluster_files import MAX_COUNT, load_cluster
from edgewise.clusters import Cluster, Device, Link, Network
from edgewise.errors import ClusterError
from edgewise.schemes import get_scheme
from edgewise.specs import LayerKind, LayerSpec, ModelSpec, Workload

EMBEDDING = LayerSpec(LayerKind.EMBEDDING, ((10, 4),), 0)
BLOCK = LayerSpec(LayerKind.BLOCK, ((8, 4), (4, 4)), 3, kv_width=8, kv_heads=2)
HEAD = LayerSpec(LayerKind.HEAD, ((10, 4),), 4)
MODEL = ModelSpec("tiny", (EMBEDDING, BLOCK, BLOCK, HEAD), 4, 10, 32, tied=False)

A = """
source = "a"
[[device]]
name = "a"
memory = "1 GB"
"""
AB = (
    A
    + """
[[device]]
name = "b"
memory = "2 GB"
"""
)
LINK = AB + '[[link]]\nbetween = ["a", "b"]\n'

PIS = """
[[device]]
name = "pi"
memory = "1 GB"
count = 3
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a cluster file."""

    def to_file(text: str) -> Path:
        path = tmp_path / "cluster.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


class TestModel:
    def test_matrices_take_the_schemes_bits_and_the_rest_its_compute_type(self) -> None:
        assert BLOCK.weight_bytes(get_scheme("fp32")) == (8 * 4 + 4 * 4 + 3) * 4
        assert BLOCK.weight_bytes(get_scheme("bf16")) == (8 * 4 + 4 * 4 + 3) * 2

    def test_embedding_and_head_are_layers_but_not_blocks(self) -> None:
        assert MODEL.num_layers == 4
        assert MODEL.num_blocks == 2

    def test_the_digest_ignores_the_name(self) -> None:
        assert dataclasses.replace(MODEL, name="other").digest == MODEL.digest

    @pytest.mark.parametrize(
        "change",
        [
            {"layers": (EMBEDDING, BLOCK, HEAD)},
            {"hidden_size": 8},
            {"vocab_size": 11},
            {"max_context": 64},
            {"tied": True},
            {"computation": "other norms"},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_the_digest_changes_with_the_shape(self, change: dict[str, object]) -> None:
        assert dataclasses.replace(MODEL, **change).digest != MODEL.digest

    @pytest.mark.parametrize(
        "change",
        [
            {"matrices": ((8, 4), (4, 5))},
            {"other_weights": 4},
            {"stored": (((8, "q4g64"),), ((4, "q6g64"),))},
            {"compute": "bf16"},
            {"kv_width": 4},
            {"kv_heads": 1},
            {"window": 16},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_block_unlike_the_others_is_a_class_of_its_own(self, change) -> None:
        other = dataclasses.replace(BLOCK, **change)
        layers = (EMBEDDING, BLOCK, other, BLOCK, HEAD)
        model, alike = (
            dataclasses.replace(MODEL, layers=x) for x in (layers, (EMBEDDING, *[BLOCK] * 3, HEAD))
        )
        assert model.classes == ("embedding", "block 1", "block 2", "block 1", "head")
        assert alike.classes == ("embedding", "block", "block", "block", "head")
        assert model.digest != alike.digest

    def test_of_an_embedding_only_what_is_looked_up_is_read(self) -> None:
        fp32 = get_scheme("fp32")
        assert EMBEDDING.read_bytes(fp32, 3) == 3 * 4 * 4
        assert EMBEDDING.read_bytes(fp32, 20) == EMBEDDING.weight_bytes(fp32)
        assert BLOCK.read_bytes(fp32, 1) == BLOCK.weight_bytes(fp32)

    def test_the_digest_is_the_same_in_every_process(self) -> None:
        # Files refer to it: where it changes, so must the VERSION of profiles, plans and
        # sensitivities, or old ones are said to be of another model.
        assert MODEL.digest == "dcea10319f631f3c"


class TestWorkload:
    def test_the_context_is_prompt_and_answer(self) -> None:
        assert Workload(prompt_tokens=5, new_tokens=7, sequences=3).context == 12

    @pytest.mark.parametrize("name", ["prompt_tokens", "new_tokens", "sequences", "micro_batches"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_every_figure_is_at_least_one(self, name: str, value: int) -> None:
        with pytest.raises(ValueError) as caught:
            Workload(**{name: value})
        assert str(caught.value) == f"{name} must be at least 1, not {value}"

    @pytest.mark.parametrize(
        ("sequences", "lanes", "batch"),
        [(1, 1, 1), (6, 1, 6), (6, 2, 3), (7, 2, 4), (7, 3, 3), (7, 7, 1)],
    )
    def test_the_largest_micro_batch_counts(self, sequences: int, lanes: int, batch: int) -> None:
        assert Workload(sequences=sequences, micro_batches=lanes).batch == batch

    def test_every_micro_batch_has_a_sequence(self) -> None:
        with pytest.raises(ValueError, match=r"^2 sequences do not fill 3 micro-batches$"):
            Workload(sequences=2, micro_batches=3)


class TestLink:
    def test_a_message_takes_the_latency_and_its_bytes(self) -> None:
        assert Link("a", "b", 100.0, 0.5).seconds(50) == 1.0

    def test_without_figures_a_link_costs_nothing(self) -> None:
        assert Link("a", "b").seconds(10**12) == 0.0

    @pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan])
    def test_bandwidth_is_positive(self, bandwidth: float) -> None:
        with pytest.raises(ClusterError, match=r"^link a -> b: bandwidth must be positive$"):
            Link("a", "b", bandwidth)

    @pytest.mark.parametrize("latency", [-1e-9, math.nan, math.inf])
    def test_latency_is_zero_or_more(self, latency: float) -> None:
        with pytest.raises(ClusterError, match=r"^link a -> b: latency must be zero or more$"):
            Link("a", "b", 1.0, latency)


def networked(*networks: Network, links: tuple[Link, ...] = ()) -> Cluster:
    """Four devices; prompts arrive at 'a'."""
    return Cluster(tuple(Device(name, 1) for name in "abcd"), links, "a", networks)


class TestNetwork:
    @pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan])
    def test_bandwidth_is_positive(self, bandwidth: float) -> None:
        with pytest.raises(ClusterError, match=r"^network of a, b: bandwidth must be positive$"):
            Network(("a", "b"), bandwidth)

    @pytest.mark.parametrize("latency", [-1e-9, math.nan, math.inf])
    def test_latency_is_zero_or_more(self, latency: float) -> None:
        with pytest.raises(ClusterError, match=r"^network of a: latency must be zero or more$"):
            Network(("a",), 1.0, latency)


class TestCluster:
    cluster = Cluster((Device("a", 1), Device("b", 2)), (Link("a", "b", 5.0, 1.0),), "a")

    def test_devices_are_found_by_name(self) -> None:
        assert self.cluster.device("b") == Device("b", 2)

    def test_an_unknown_device_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(ClusterError, match=r"^unknown device 'c'; devices: a, b$"):
            self.cluster.device("c")

    def test_links_have_a_direction(self) -> None:
        assert self.cluster.link("a", "b") == Link("a", "b", 5.0, 1.0)
        assert self.cluster.link("b", "a") is None

    def test_a_device_reaches_itself_at_no_cost(self) -> None:
        link = self.cluster.link("b", "b")
        assert link is not None
        assert link.seconds(10**9) == 0.0

    def test_this_machine_is_a_cluster_of_one(self) -> None:
        cluster = Cluster.of_this_machine(100, 3)
        assert cluster.devices == (Device(cluster.source, 100, 3),)
        assert cluster.links == ()

    def test_every_pair_of_a_network_is_linked_in_both_directions(self) -> None:
        cluster = networked(Network(("a", "b", "c"), 5.0, 0.5))
        for a, b in permutations("abc", 2):
            assert cluster.link(a, b) == Link(a, b, 5.0, 0.5)
        assert cluster.link("a", "d") is cluster.link("d", "a") is None

    def test_a_link_comes_before_a_network(self) -> None:
        cluster = networked(Network(("a", "b"), 5.0), links=(Link("a", "b", 1.0),))
        assert cluster.link("a", "b") == Link("a", "b", 1.0)
        assert cluster.link("b", "a") == Link("b", "a", 5.0)

    def test_the_first_network_that_both_are_in_counts(self) -> None:
        cluster = networked(
            Network(("c", "d"), 1.0), Network(("a", "b", "c"), 2.0), Network(("a", "b"), 3.0)
        )
        assert cluster.link("a", "b") == Link("a", "b", 2.0)
        assert cluster.link("c", "d") == Link("c", "d", 1.0)

    def test_a_device_in_a_network_reaches_itself_at_no_cost(self) -> None:
        cluster = networked(Network(("a", "b"), 1.0, 9.0))
        assert cluster.link("a", "a") == Link("a", "a")

    def test_all_links_are_those_of_networks_too(self) -> None:
        cluster = networked(Network(("a", "b", "c"), 5.0), links=(Link("d", "a"), Link("b", "a")))
        assert set(cluster.all_links()) == {
            Link("d", "a"),
            Link("b", "a"),
            *(Link(a, b, 5.0) for a, b in ("ab", "ac", "bc", "ca", "cb")),
        }
        assert len(cluster.all_links()) == 7

    def test_all_links_are_what_link_says_of_every_pair(self) -> None:
        cluster = networked(Network(("a", "b"), 5.0), links=(Link("c", "d", 2.0),))
        links = {(link.source, link.target): link for link in cluster.all_links()}
        assert links == {pair: x for pair in permutations("abcd", 2) if (x := cluster.link(*pair))}

    def test_a_cluster_without_connections_has_no_links(self) -> None:
        assert networked().all_links() == ()

    @pytest.mark.parametrize(
        ("links", "networks", "unreachable"),
        [
            ((), (), "bcd"),
            ((("a", "b"), ("b", "c"), ("c", "d")), (), ""),
            ((("b", "a"), ("c", "b")), (), "bcd"),  # links have a direction
            ((("a", "b"), ("c", "d"), ("d", "c")), (), "cd"),
            ((("a", "b"),), ("bc",), "d"),
            ((), ("bcd",), "bcd"),
            ((), ("ab", "bc", "cd"), ""),
            ((("d", "a"),), ("abc",), "d"),
        ],
    )
    def test_what_no_path_leads_to_from_the_source_is_unreachable(
        self, links: tuple[tuple[str, str], ...], networks: tuple[str, ...], unreachable: str
    ) -> None:
        cluster = networked(
            *(Network(tuple(members)) for members in networks),
            links=tuple(Link(*ends) for ends in links),
        )
        assert cluster.unreachable() == list(unreachable)

    def test_an_unknown_device_in_a_network_is_refused(self) -> None:
        with pytest.raises(ClusterError) as caught:
            networked(Network(("a", "x")))
        assert str(caught.value) == "a network: unknown device 'x'; devices: a, b, c, d"

    def test_a_device_is_of_its_own_kind_unless_said(self) -> None:
        assert Device("a", 1).kind == "a"
        assert Device("a", 1, kind="pi").kind == "pi"

    def test_there_is_at_least_one_device(self) -> None:
        with pytest.raises(ClusterError, match=r"^a cluster needs at least one device$"):
            Cluster((), (), "a")


class TestAGoodFile:
    def test_one_device_needs_a_name_and_memory_only(self, write: Write) -> None:
        cluster = load_cluster(write(A))
        assert cluster == Cluster((Device("a", 10**9, 1, 1.0, "cpu"),), (), "a")

    def test_every_key_of_a_device_is_read(self, write: Write) -> None:
        text = A + 'threads = 6\nslowdown = 2.5\nprocessor = "gpu"\n'
        assert load_cluster(write(text)).device("a") == Device("a", 10**9, 6, 2.5, "gpu")

    def test_a_disk_has_a_rate_in_bytes(self, write: Write) -> None:
        cluster = load_cluster(write(A + 'disk = "800 MB/s"'))
        assert cluster.device("a").disk_bytes_per_second == 8e8
        assert cluster.has_disks and not cluster.without_disks().has_disks
        assert not load_cluster(write(A)).has_disks

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ('disk = "800 Mbps"', "not a disk's rate; write it like '800 MB/s'"),
            ('disk = "MB/s"', "is not a size"),
            ('disk = "-1 MB/s"', "at 0 or more bytes a second"),
            ("disk = 800", "key 'disk' has the wrong type"),
            (
                'disk = "1 GB/s"\nprocessor = "cuda"',
                "only processor 'cpu' computes layers from disk",
            ),
        ],
    )
    def test_a_wrong_disk_is_named(self, write: Write, line: str, why: str) -> None:
        with pytest.raises(ClusterError, match=re.escape(why)):
            load_cluster(write(A + line))

    def test_memory_may_be_a_plain_number_of_bytes(self, write: Write) -> None:
        cluster = load_cluster(write(A.replace('"1 GB"', "12345")))
        assert cluster.device("a").memory_bytes == 12345

    def test_devices_keep_their_order_whatever_the_source(self, write: Write) -> None:
        cluster = load_cluster(write(AB.replace('source = "a"', 'source = "b"')))
        assert [device.name for device in cluster.devices] == ["a", "b"]
        assert cluster.source == "b"

    def test_between_makes_a_link_in_both_directions(self, write: Write) -> None:
        cluster = load_cluster(write(LINK + 'bandwidth = "80 Mbps"\nlatency = "3 ms"'))
        assert cluster.links == (Link("a", "b", 1e7, 0.003), Link("b", "a", 1e7, 0.003))

    def test_from_and_to_make_a_link_in_one_direction(self, write: Write) -> None:
        cluster = load_cluster(write(AB + '[[link]]\nfrom = "b"\nto = "a"'))
        assert cluster.links == (Link("b", "a"),)

    def test_the_two_directions_may_differ(self, write: Write) -> None:
        one = '[[link]]\nfrom = "a"\nto = "b"\nbandwidth = "8 kbps"\n'
        other = '[[link]]\nfrom = "b"\nto = "a"\nlatency = "1 s"\n'
        cluster = load_cluster(write(AB + one + other))
        assert cluster.links == (Link("a", "b", 1000.0), Link("b", "a", math.inf, 1.0))

    def test_names_may_be_in_any_language(self, write: Write) -> None:
        cluster = load_cluster(write(A.replace('"a"', '"Küche 1"')))
        assert cluster.source == "Küche 1"

    def test_a_count_makes_so_many_of_a_kind(self, write: Write) -> None:
        cluster = load_cluster(write(A + PIS + "threads = 4\nslowdown = 2\n"))
        pis = tuple(Device(f"pi-{i}", 10**9, 4, 2, kind="pi") for i in (1, 2, 3))
        assert cluster.devices == (Device("a", 10**9), *pis)

    def test_a_count_of_one_is_a_device_of_that_name(self, write: Write) -> None:
        cluster = load_cluster(write(A + "count = 1"))
        assert cluster.devices == (Device("a", 10**9),)

    def test_one_of_a_kind_may_be_the_source(self, write: Write) -> None:
        text = PIS.replace("[[device]]", 'source = "pi-2"\n[[device]]')
        assert load_cluster(write(text)).source == "pi-2"

    def test_a_count_may_be_large(self, write: Write) -> None:
        cluster = load_cluster(write(A + PIS.replace("3", str(MAX_COUNT))))
        assert len(cluster.devices) == 1 + MAX_COUNT

    def test_an_interface_is_read_and_limits_links_and_networks(self, write: Write) -> None:
        more = '[[device]]\nname = "c"\nmemory = "1 GB"\ninterface = "8 Mbps"\n'
        link = '[[link]]\nbetween = ["a", "c"]\nbandwidth = "80 Mbps"\nlatency = "3 ms"\n'
        network = '[[network]]\ndevices = ["b", "c"]\nbandwidth = "8 kbps"'
        cluster = load_cluster(write(AB + more + link + network))
        rates = [device.interface_bytes_per_second for device in cluster.devices]
        assert rates == [math.inf, math.inf, 1e6]
        assert cluster.links[0] == Link("a", "c", 1e7, 0.003)
        assert cluster.link("a", "c") == Link("a", "c", 1e6, 0.003)
        assert cluster.link("c", "a") == Link("c", "a", 1e6, 0.003)
        assert cluster.link("b", "c") == Link("b", "c", 1e3)

    def test_equal_devices_have_an_interface_each(self, write: Write) -> None:
        cluster = load_cluster(write(A + PIS + 'interface = "8 Mbps"'))
        rates = [device.interface_bytes_per_second for device in cluster.devices]
        assert rates == [math.inf, 1e6, 1e6, 1e6]

    def test_a_network_is_read(self, write: Write) -> None:
        network = '[[network]]\ndevices = ["a", "b"]\nbandwidth = "80 Mbps"\nlatency = "3 ms"'
        cluster = load_cluster(write(AB + network))
        assert cluster.networks == (Network(("a", "b"), 1e7, 0.003),)
        assert cluster.links == ()
        assert cluster.link("b", "a") == Link("b", "a", 1e7, 0.003)

    def test_a_network_without_figures_costs_nothing(self, write: Write) -> None:
        cluster = load_cluster(write(AB + '[[network]]\ndevices = ["a", "b"]'))
        assert cluster.link("a", "b") == Link("a", "b")

    def test_in_a_network_a_kind_stands_for_its_members(self, write: Write) -> None:
        cluster = load_cluster(write(A + PIS + '[[network]]\ndevices = ["a", "pi"]'))
        assert cluster.networks == (Network(("a", "pi-1", "pi-2", "pi-3")),)
        assert cluster.unreachable() == []

    def test_in_a_network_a_member_stands_for_itself(self, write: Write) -> None:
        cluster = load_cluster(write(A + PIS + '[[network]]\ndevices = ["a", "pi-2"]'))
        assert cluster.networks == (Network(("a", "pi-2")),)
        assert cluster.unreachable() == ["pi-1", "pi-3"]

    def test_networks_keep_their_order(self, write: Write) -> None:
        fast = '[[network]]\ndevices = ["a", "b"]\nbandwidth = "80 Mbps"\n'
        slow = '[[network]]\ndevices = ["b", "a"]\nbandwidth = "8 kbps"\n'
        cluster = load_cluster(write(AB + fast + slow))
        assert [network.bytes_per_second for network in cluster.networks] == [1e7, 1e3]
        assert cluster.link("b", "a") == Link("b", "a", 1e7)


NETWORK_KEYS = "devices, bandwidth, latency"
DEVICE_KEYS = "name, memory, threads, slowdown, processor, interface, disk, count"
LINK_KEYS = "from, to, between, bandwidth, latency"
BAD = {
    "an unknown key in the file": (
        'sources = "a"\n' + A,
        "the file: unknown key 'sources'; known keys: source, device, link, network",
    ),
    "an unknown key in a device": (
        A + "treads = 2",
        f"device 1: unknown key 'treads'; known keys: {DEVICE_KEYS}",
    ),
    "an unknown key in the second device": (
        AB + 'ram = "1 GB"',
        f"device 2: unknown key 'ram'; known keys: {DEVICE_KEYS}",
    ),
    "an unknown key in a link": (
        LINK + 'bandwith = "1 Mbps"',
        f"link 1: unknown key 'bandwith'; known keys: {LINK_KEYS}",
    ),
    "an empty file": ("", "no [[device]] is given; a cluster needs at least one"),
    "no device": ('source = "a"', "no [[device]] is given; a cluster needs at least one"),
    "a list of no devices": (
        'source = "a"\ndevice = []',
        "no [[device]] is given; a cluster needs at least one",
    ),
    "a device that is no table": (
        'source = "a"\ndevice = ["a"]',
        "device 1 must be a table",
    ),
    "a link that is no table": ("link = [5]\n" + A, "link 1 must be a table"),
    "no source": (
        A.replace('source = "a"', ""),
        "key 'source' is missing: name the device where prompts arrive",
    ),
    "a source that is not a device": (
        AB.replace('source = "a"', 'source = "c"'),
        "the source 'c' is not a device; devices: a, b",
    ),
    "a source that is a number": (
        A.replace('source = "a"', "source = 5"),
        "the file: key 'source' has the wrong type: 5",
    ),
    "no name": (A.replace('name = "a"', ""), "device 1: key 'name' is missing"),
    "an empty name": (A.replace('name = "a"', 'name = ""'), "a device has no name"),
    "a name of the wrong type": (
        A.replace('name = "a"', "name = 1"),
        "device 1: key 'name' has the wrong type: 1",
    ),
    "no memory": (A.replace('memory = "1 GB"', ""), "device 1: key 'memory' is missing"),
    "negative memory in units": (
        A.replace('"1 GB"', '"-1 GB"'),
        "device 'a': memory must be positive, not -1000000000 bytes",
    ),
    "negative memory in bytes": (
        A.replace('"1 GB"', "-5"),
        "device 'a': memory must be positive, not -5 bytes",
    ),
    "no memory at all": (
        A.replace('"1 GB"', "0"),
        "device 'a': memory must be positive, not 0 bytes",
    ),
    "memory in an unknown unit": (
        AB.replace('"2 GB"', '"2 GHz"'),
        "device 2: memory '2 GHz' is not a size; write it like '8 GB'",
    ),
    "memory that is half a byte": (
        A.replace('"1 GB"', "1.5"),
        "device 1: key 'memory' has the wrong type: 1.5",
    ),
    "memory that is not a number": (
        A.replace('"1 GB"', "nan"),
        "device 1: key 'memory' has the wrong type: nan",
    ),
    "memory that is true": (
        A.replace('"1 GB"', "true"),
        "device 1: key 'memory' has the wrong type: True",
    ),
    "no threads": (A + "threads = 0", "device 'a': threads must be at least 1, not 0"),
    "half a thread": (A + "threads = 0.5", "device 1: key 'threads' has the wrong type: 0.5"),
    "a device faster than it is": (
        A + "slowdown = 0.99",
        "device 'a': slowdown must be at least 1, not 0.99",
    ),
    "a slowdown that is not a number": (
        A + "slowdown = nan",
        "device 'a': slowdown must be at least 1, not nan",
    ),
    "an infinite slowdown": (
        A + "slowdown = inf",
        "device 'a': slowdown must be at least 1, not inf",
    ),
    "a slowdown in words": (
        A + 'slowdown = "2"',
        "device 1: key 'slowdown' has the wrong type: '2'",
    ),
    "a processor that is a number": (
        A + "processor = 1",
        "device 1: key 'processor' has the wrong type: 1",
    ),
    "an interface without a unit": (
        A + "interface = 100",
        "device 1: key 'interface' has the wrong type: 100",
    ),
    "an interface in bytes": (
        A + 'interface = "100 MB/s"',
        "device 1: interface '100 MB/s' is not a bit rate; write it like '50 Mbps'",
    ),
    "an interface that sends nothing": (
        A + 'interface = "0 Mbps"',
        "device 'a': interface must be faster than 0 bps, not 0 bps",
    ),
    "a negative interface": (
        A + 'interface = "-8 kbps"',
        "device 'a': interface must be faster than 0 bps, not -8000 bps",
    ),
    "two devices of one name": (AB.replace('"b"', '"a"'), "two devices are called 'a'"),
    "an unknown device in a link": (
        LINK.replace('["a", "b"]', '["a", "c"]'),
        "link a -> c: unknown device 'c'; devices: a, b",
    ),
    "a link from an unknown device": (
        AB + '[[link]]\nfrom = "c"\nto = "a"',
        "link c -> a: unknown device 'c'; devices: a, b",
    ),
    "a link given twice": (
        AB + '[[link]]\nfrom = "a"\nto = "b"\n[[link]]\nfrom = "a"\nto = "b"\n',
        "link a -> b is given twice",
    ),
    "a link given in both directions and in one": (
        LINK + '[[link]]\nfrom = "b"\nto = "a"',
        "link b -> a is given twice",
    ),
    "a link without ends": (
        AB + '[[link]]\nlatency = "1 ms"',
        "link 1: give either 'between' or both 'from' and 'to'",
    ),
    "a link with between and from": (
        LINK + 'from = "a"',
        "link 1: give either 'between' or both 'from' and 'to'",
    ),
    "a link with one end": (
        AB + '[[link]]\nfrom = "a"',
        "link 1: a link has two ends, such as between = ['a', 'b']",
    ),
    "a link between three devices": (
        LINK.replace('["a", "b"]', '["a", "b", "a"]'),
        "link 1: a link has two ends, such as between = ['a', 'b']",
    ),
    "a link between numbers": (
        LINK.replace('["a", "b"]', "[1, 2]"),
        "link 1: a link has two ends, such as between = ['a', 'b']",
    ),
    "a link whose end is a number": (
        AB + '[[link]]\nfrom = 1\nto = "b"',
        "link 1: key 'from' has the wrong type: 1",
    ),
    "zero bandwidth": (
        LINK + 'bandwidth = "0 Mbps"',
        "link a -> b: bandwidth must be positive",
    ),
    "negative bandwidth": (
        LINK + 'bandwidth = "-5 Mbps"',
        "link a -> b: bandwidth must be positive",
    ),
    "bandwidth without a unit": (
        LINK + "bandwidth = 50",
        "link 1: key 'bandwidth' has the wrong type: 50",
    ),
    "bandwidth in bytes": (
        LINK + 'bandwidth = "50 MB/s"',
        "link 1: '50 MB/s' is not a bit rate; write it like '50 Mbps'",
    ),
    "bandwidth that is not a number": (
        LINK + 'bandwidth = "nan Mbps"',
        "link 1: 'nan Mbps' is not a bit rate; write it like '50 Mbps'",
    ),
    "negative latency": (
        LINK + 'latency = "-1 ms"',
        "link a -> b: latency must be zero or more",
    ),
    "latency in an unknown unit": (
        LINK + 'latency = "1 h"',
        "link 1: '1 h' is not a time; write it like '2 ms'",
    ),
    "latency without a unit": (
        LINK + "latency = 0.001",
        "link 1: key 'latency' has the wrong type: 0.001",
    ),
    "a count of nothing": (A + "count = 0", "device 1: count must be between 1 and 10000, not 0"),
    "a negative count": (A + "count = -1", "device 1: count must be between 1 and 10000, not -1"),
    "too large a count": (
        A + "count = 10001",
        "device 1: count must be between 1 and 10000, not 10001",
    ),
    "half a device": (A + "count = 1.5", "device 1: key 'count' has the wrong type: 1.5"),
    "a count that is true": (A + "count = true", "device 1: key 'count' has the wrong type: True"),
    "a kind as the source": (
        A.replace('source = "a"', 'source = "pi"') + PIS,
        "the source 'pi' is not a device; devices: a, pi-1, pi-2, pi-3",
    ),
    "a name that a count makes too": (
        A + PIS + PIS.replace('"pi"', '"pi-2"').replace("3", "1"),
        "two devices are called 'pi-2'",
    ),
    "an unknown device among many": (
        A.replace('source = "a"', 'source = "x"') + PIS.replace("3", "30"),
        "the source 'x' is not a device; devices: a, "
        + "".join(f"pi-{i}, " for i in range(1, 20))
        + "...",
    ),
    "an unknown key in a network": (
        AB + '[[network]]\ndevices = ["a", "b"]\nspeed = "1 Mbps"',
        f"network 1: unknown key 'speed'; known keys: {NETWORK_KEYS}",
    ),
    "a network that is no table": ("network = [5]\n" + A, "network 1 must be a table"),
    "networks that are no list": (
        "network = 5\n" + A,
        "'network' must be a list: write [[network]], with double brackets",
    ),
    "a network without devices": (
        AB + '[[network]]\nbandwidth = "1 Mbps"',
        "network 1: key 'devices' must be a list of names",
    ),
    "a network of a device in words": (
        AB + '[[network]]\ndevices = "a"',
        "network 1: key 'devices' must be a list of names",
    ),
    "a network of numbers": (
        AB + "[[network]]\ndevices = [1, 2]",
        "network 1: key 'devices' must be a list of names",
    ),
    "an unknown device in a network": (
        AB + '[[network]]\ndevices = ["a", "x"]',
        "a network: unknown device 'x'; devices: a, b",
    ),
    "no bandwidth in a network": (
        AB + '[[network]]\ndevices = ["a", "b"]\nbandwidth = "0 Mbps"',
        "network of a, b: bandwidth must be positive",
    ),
}


class TestABadFile:
    @pytest.mark.parametrize("text_and_message", BAD.values(), ids=BAD)
    def test_is_refused_with_file_and_reason(
        self, write: Write, text_and_message: tuple[str, str]
    ) -> None:
        text, message = text_and_message
        path = write(text)
        with pytest.raises(ClusterError) as caught:
            load_cluster(path)
        assert str(caught.value) == f"{path}: {message}"
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize("text", ["source = a", A + 'name = "b"', "[[device]", "{}"])
    def test_that_is_not_toml_is_refused_with_the_place(self, write: Write, text: str) -> None:
        with pytest.raises(tomllib.TOMLDecodeError, match=r"\(at .+\)") as reason:
            tomllib.loads(text)
        path = write(text)
        with pytest.raises(ClusterError) as caught:
            load_cluster(path)
        assert str(caught.value) == f"{path}: not valid TOML: {reason.value}"

    def test_that_is_not_text_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "cluster.toml"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ClusterError) as caught:
            load_cluster(path)
        assert str(caught.value).startswith(f"{path}: not valid TOML: 'utf-8' codec can't decode")

    def test_that_is_missing_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "nothing.toml"
        with pytest.raises(ClusterError) as caught:
            load_cluster(path)
        assert str(caught.value) == f"cannot read cluster file {path}: No such file or directory"

    def test_that_is_a_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ClusterError) as caught:
            load_cluster(tmp_path)
        assert str(caught.value) == f"cannot read cluster file {tmp_path}: Is a directory"

    @pytest.mark.parametrize("text", ['source = "a"\ndevice = 5', "link = 5\n" + A])
    def test_whose_devices_or_links_are_no_list_is_refused(self, write: Write, text: str) -> None:
        with pytest.raises(ClusterError, match="must be a list"):
            load_cluster(write(text))

    def test_with_more_memory_than_numbers_can_say_is_refused(self, write: Write) -> None:
        with pytest.raises(ClusterError, match="is not a size"):
            load_cluster(write(A.replace("1 GB", "1e400 GB")))

    @pytest.mark.parametrize("ends", ['between = ["a", "a"]', 'from = "a"\nto = "a"'])
    def test_with_a_link_from_a_device_to_itself_is_refused(self, write: Write, ends: str) -> None:
        with pytest.raises(ClusterError, match="to itself"):
            load_cluster(write(f"{AB}[[link]]\n{ends}"))

    @pytest.mark.parametrize(("key", "value"), [("bandwidth", 50), ("latency", 0.001)])
    def test_with_a_networks_figure_without_a_unit_is_refused(
        self, write: Write, key: str, value: float
    ) -> None:
        path = write(f'{AB}[[network]]\ndevices = ["a", "b"]\n{key} = {value}')
        with pytest.raises(ClusterError) as caught:
            load_cluster(path)
        message = f"network 1: key '{key}' has the wrong type: {value}"
        assert str(caught.value) == f"{path}: {message}"
