"""Each step of the algebra against the plain form it replaces."""

from __future__ import annotations

import pytest

from etam_edge_testing.small import SIZES, small_model, small_spec

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from etam_edge.exporters.graphs import static_memory as static  # noqa: E402
from etam_edge.model import EfficientTAM  # noqa: E402
from etam_edge.model.layers import attend, to_tokens  # noqa: E402
from etam_edge.model.memory_attention import LOG_4, MemoryCrossAttention, pool_tokens  # noqa: E402
from etam_edge.model.position import rotate  # noqa: E402
from etam_edge.spec import EMPTY_BIAS, UNPOOLED_SLOTS, Pooling  # noqa: E402

POOLINGS = list(Pooling)
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def memory_of(model: EfficientTAM, frames: int) -> list[Tensor]:
    spec = model.spec
    return [torch.randn(1, spec.memory_width, spec.grid, spec.grid) for _ in range(frames)]


def plain_keys(model: EfficientTAM, attention: MemoryCrossAttention, memory: Tensor, code: Tensor | None) -> Tensor:
    """RoPE(W_k (m + p + t)), pooled where pooled: (1, T, C) in the model's own channel order."""
    tokens = to_tokens(memory) + model.memory_position
    if code is not None:
        tokens = tokens + code
    key = rotate(attention.k_proj(tokens), attention.cosine, attention.sine)
    return pool_tokens(key, model.spec.grid) if model.spec.pooled else key


def test_channel_order_leaves_products_alone() -> None:
    model = small_model(Pooling.NONE)
    attention = static.cross_attentions(model)[0]
    x, y = torch.randn(2, 1, model.spec.tokens, model.spec.width)
    plain = rotate(attention.q_proj(x), attention.cosine, attention.sine) @ rotate(
        attention.q_proj(y), attention.cosine, attention.sine
    ).transpose(1, 2)
    project, tables = static.reordered(attention.q_proj), static.halves_tables(attention)
    halves = static.rotate_halves(project(x), *tables) @ static.rotate_halves(project(y), *tables).transpose(1, 2)
    torch.testing.assert_close(halves, plain, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_keys_once(pooling: Pooling) -> None:
    """A key written without its time code plus the table's row is the key computed with the code."""
    model = small_model(pooling)
    order = static.halves_order(model.spec.width)
    shift = LOG_4 if pooling is Pooling.KEY_BIAS else 0.0
    [memory] = memory_of(model, 1)
    keys, _ = static.EntryWriter(model)(memory)
    for layer, attention in enumerate(static.cross_attentions(model)):
        table = static.time_code_table(model, attention)
        assert torch.count_nonzero(table[-1]) == 0
        for age, code in enumerate(model.maskmem_tpos_enc):
            expected = plain_keys(model, attention, memory, code)[..., order] + shift
            torch.testing.assert_close(keys[:, layer] + table[age], expected, **CLOSE)
            assert not torch.allclose(keys[:, layer], expected, **CLOSE), "the time code must matter"


@pytest.mark.parametrize("pooling", POOLINGS)
def test_values_last(pooling: Pooling) -> None:
    """Attending over raw memory and multiplying by the merged matrix equals projecting values first."""
    model = small_model(pooling)
    attention = static.cross_attentions(model)[1]
    query, key = torch.randn(1, 7, 64), torch.randn(1, 30, 64)
    memory = torch.randn(1, 30, model.spec.memory_width)
    plain = attention.out_proj(attend(query, key, attention.v_proj(memory)))
    torch.testing.assert_close(static.merged_output(attention)(attend(query, key, memory)), plain, **CLOSE)


@pytest.mark.parametrize("pooling", [Pooling.SCORE_BIAS, Pooling.KEY_BIAS])
def test_pooling_commutes_with_the_projection_of_values(pooling: Pooling) -> None:
    model = small_model(pooling)
    attention = static.cross_attentions(model)[0]
    [memory] = memory_of(model, 1)
    _, values = static.EntryWriter(model)(memory)
    plain = pool_tokens(attention.v_proj(to_tokens(memory)), model.spec.grid)
    torch.testing.assert_close(attention.v_proj(values), plain, **CLOSE)


def bank(model: EfficientTAM) -> dict[str, Tensor]:
    """An empty bank for one object; unused slots hold noise, which must not matter."""
    spec, slots, pointers = model.spec, SIZES.slots(model.spec), SIZES.pointer_slots(model.spec)
    return {
        "keys": torch.randn(1, slots, spec.memory_layers, spec.memory_tokens, spec.width),
        "values": torch.randn(1, slots, spec.memory_tokens, spec.memory_width),
        "codes": torch.full((1, slots), spec.memory_frames, dtype=torch.int32),
        "slot_bias": torch.full((1, slots), EMPTY_BIAS),
        "pointers": torch.randn(1, pointers, spec.width),
        "pointer_bias": torch.full((1, pointers), EMPTY_BIAS),
    }


def put(model: EfficientTAM, into: dict[str, Tensor], slot: int, memory: Tensor, code: int) -> None:
    keys, values = static.EntryWriter(model)(memory)
    into["keys"][:, slot], into["values"][:, slot] = keys, values
    into["codes"][:, slot] = code
    into["slot_bias"][:, slot] = LOG_4 if model.spec.pooling is Pooling.SCORE_BIAS else 0.0


def put_pointer(into: dict[str, Tensor], slot: int) -> Tensor:
    into["pointer_bias"][:, slot] = 0.0
    return into["pointers"][:, slot]


def plain_condition(
    model: EfficientTAM, features: Tensor, entries: list[tuple[Tensor, int]], pointers: list[Tensor]
) -> Tensor:
    position, codes = model.memory_position, model.maskmem_tpos_enc
    return model.condition(
        features,
        torch.cat([to_tokens(memory) for memory, _ in entries], dim=1),
        torch.cat([position + codes[code] for _, code in entries], dim=1),
        torch.cat([pointer.reshape(1, -1, model.spec.memory_width) for pointer in pointers], dim=1),
    )


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.inference_mode()
def test_static_attention_equals_plain(pooling: Pooling) -> None:
    """Slots in any order, ages as indices and noise in empty slots give the output of the plain form."""
    model = small_model(pooling)
    spec = model.spec
    features = torch.randn(1, spec.width, spec.grid, spec.grid)
    memories = memory_of(model, 4)
    places = [(5, 6), (0, 2), (3, 0), (6, 1)]  # (slot, time code)
    into = bank(model)
    for memory, (slot, code) in zip(memories, places, strict=True):
        put(model, into, slot, memory, code)
    pointers = [put_pointer(into, slot) for slot in (2, 9, 0)]
    actual = static.StaticMemoryAttention(model, SIZES)(features, *into.values())
    entries = [(memory, code) for memory, (_, code) in zip(memories, places, strict=True)]
    expected = plain_condition(model, features, entries, pointers)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    swapped = plain_condition(model, features, [(memories[0], 2), (memories[1], 6), *entries[2:]], pointers)
    assert not torch.allclose(actual, swapped, rtol=1e-3, atol=1e-3), "swapped ages must show"


@pytest.mark.parametrize("pooling", [Pooling.SCORE_BIAS, Pooling.KEY_BIAS])
@torch.inference_mode()
def test_a_single_memory_is_attended_unpooled(pooling: Pooling) -> None:
    model = small_model(pooling)
    spec = model.spec
    features = torch.randn(1, spec.width, spec.grid, spec.grid)
    [memory] = memory_of(model, 1)
    into = bank(model)
    keys, values = static.UnpooledEntryWriter(static.EntryWriter(model))(memory)
    slots = [6, 1, 0, 4]
    assert len(slots) == UNPOOLED_SLOTS
    into["keys"][:, slots], into["values"][:, slots] = keys, values
    into["slot_bias"][:, slots] = 0.0
    pointer = put_pointer(into, 1)
    attention = static.StaticMemoryAttention(model, SIZES)
    actual = attention(features, *into.values())
    # The plain form pools as soon as there is a second memory, so an unpooled model gives the expected output.
    unpooled = EfficientTAM(small_spec(Pooling.NONE)).eval()
    unpooled.load_state_dict(model.state_dict())
    expected = plain_condition(unpooled, features, [(memory, spec.memory_frames - 1)], [pointer])
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        plain_condition(model, features, [(memory, spec.memory_frames - 1)], [pointer]), expected, **CLOSE
    )
    pooled = bank(model)
    put(model, pooled, 0, memory, spec.memory_frames - 1)
    pooled["pointers"][:, 1], pooled["pointer_bias"][:, 1] = into["pointers"][:, 1], 0.0
    assert not torch.allclose(attention(features, *pooled.values()), expected, rtol=1e-2, atol=1e-2)


@torch.inference_mode()
def test_objects_of_different_history_share_a_batch() -> None:
    model = small_model(Pooling.KEY_BIAS)
    spec = model.spec
    features = torch.randn(1, spec.width, spec.grid, spec.grid)
    attention = static.StaticMemoryAttention(model, SIZES)
    rows = []
    for count in (1, 3):
        into = bank(model)
        for slot, memory in enumerate(memory_of(model, count)):
            put(model, into, slot, memory, slot)
        put_pointer(into, count)
        rows.append(into)
    together = attention(features, *(torch.cat([row[name] for row in rows]) for name in rows[0]))
    for index, row in enumerate(rows):
        torch.testing.assert_close(together[index : index + 1], attention(features, *row.values()), **CLOSE)


def test_the_two_poolings_are_different_functions() -> None:
    first, second = small_model(Pooling.SCORE_BIAS), small_model(Pooling.KEY_BIAS)
    second.load_state_dict(first.state_dict())
    features = torch.randn(1, 64, 8, 8)
    memories = memory_of(first, 2)
    pointers = [torch.randn(1, 64)]
    entries = [(memories[0], 6), (memories[1], 0)]
    with torch.inference_mode():
        one, two = (plain_condition(model, features, entries, pointers) for model in (first, second))
    assert (one - two).abs().max() > 1e-2
