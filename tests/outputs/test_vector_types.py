from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedway.errors import DimensionsNotSupported, InvalidValue
from embedway.model_spec import ModelSpec
from embedway.outputs.vector_types import OutputDtype, check_dimensions, check_output_dtype, finish

Floats = npt.NDArray[np.float32]


def spec_of(dimension: int, matryoshka: tuple[int, ...] = (), truncate_dim: int | None = None) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        folder="",
        tokenizer_folder="",
        revision=None,
        model_type="bert",
        vocab_size=10,
        hidden_size=dimension,
        max_length=8,
        pooling=("mean",),
        include_prompt=True,
        dense=(),
        dimension=dimension,
        normalize=True,
        matryoshka_dimensions=matryoshka,
        truncate_dim=truncate_dim,
        prompts={},
        default_prompt_name=None,
        lowercase=False,
    )


def pooled(n: int, dim: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(scale=3.0, size=(n, dim)).astype(np.float32)


def raw_vectors(multiple_of: int = 1) -> st.SearchStrategy[Floats]:
    """Pooled vectors as models give them: finite, some zero; [0 to 4, a multiple of `multiple_of`]."""
    shapes = st.tuples(st.integers(0, 4), st.integers(1, 40).map(lambda n: n * multiple_of))
    values = st.floats(-(2.0**20), 2.0**20, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6)
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=values))


# --- dimensions


def test_no_dimensions_means_the_full_vector() -> None:
    assert check_dimensions(spec_of(384), None, allow_any=False) is None


def test_no_dimensions_means_the_length_that_the_folder_declares() -> None:
    assert check_dimensions(spec_of(384, truncate_dim=128), None, allow_any=False) == 128


@pytest.mark.parametrize("dimensions", [64, 128, 384])
def test_declared_lengths_and_the_full_one_are_served(dimensions: int) -> None:
    assert check_dimensions(spec_of(384, (64, 128)), dimensions, allow_any=False) == dimensions


def test_the_full_length_can_be_asked_for_where_the_folder_declares_a_shorter_default() -> None:
    assert check_dimensions(spec_of(384, truncate_dim=128), 384, allow_any=False) == 384


def test_the_default_length_can_be_asked_for_by_number() -> None:
    assert check_dimensions(spec_of(384, truncate_dim=128), 128, allow_any=False) == 128


@pytest.mark.parametrize("allow_any", [False, True])
def test_an_undeclared_length_is_told_the_declared_ones(allow_any: bool) -> None:
    with pytest.raises(DimensionsNotSupported, match=r"'dimensions' is 100, but .*: 64, 128, 384"):
        check_dimensions(spec_of(384, (64, 128)), 100, allow_any=allow_any)


def test_a_model_without_declared_lengths_names_the_flag() -> None:
    with pytest.raises(DimensionsNotSupported, match=r"only 384 is served .*--matryoshka") as caught:
        check_dimensions(spec_of(384), 100, allow_any=False)
    assert caught.value.param == "dimensions"


def test_the_operator_can_allow_any_length() -> None:
    assert check_dimensions(spec_of(384), 100, allow_any=True) == 100


@pytest.mark.parametrize("dimensions", [-1, 0, 385, 10_000])
@pytest.mark.parametrize("allow_any", [False, True])
def test_lengths_that_no_vector_has_are_refused_with_the_limit(dimensions: int, allow_any: bool) -> None:
    with pytest.raises(DimensionsNotSupported, match=f"is {dimensions}, but it must be from 1 to 384"):
        check_dimensions(spec_of(384, (64,)), dimensions, allow_any=allow_any)


# --- cut and normalise


@given(raw_vectors())
def test_normalised_vectors_have_unit_length_or_are_zero(vectors: Floats) -> None:
    finished = finish(vectors, dimensions=None, normalize=True, output_dtype="float32")
    lengths = np.linalg.norm(finished.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, vectors.any(axis=1), rtol=0, atol=1e-6)


@given(raw_vectors(), st.data())
def test_a_cut_vector_is_renormalised(vectors: Floats, data: st.DataObject) -> None:
    dimensions = data.draw(st.integers(1, vectors.shape[1]))
    finished = finish(vectors, dimensions=dimensions, normalize=True, output_dtype="float32")
    assert finished.shape == (len(vectors), dimensions)
    assert finished.dtype == np.float32
    head = vectors[:, :dimensions].astype(np.float64)
    expected = head / np.maximum(np.linalg.norm(head, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(finished, expected, rtol=0, atol=1e-6)


def test_long_vectors_have_unit_length_too() -> None:
    finished = finish(pooled(16, 8192), dimensions=None, normalize=True, output_dtype="float32")
    np.testing.assert_allclose(np.linalg.norm(finished.astype(np.float64), axis=1), 1, rtol=0, atol=1e-6)


def test_a_vector_that_is_not_normalised_leaves_as_it_is() -> None:
    vectors = pooled(3, 16)
    finished = finish(vectors, dimensions=4, normalize=False, output_dtype="float32")
    np.testing.assert_array_equal(finished, vectors[:, :4])


@pytest.mark.parametrize("output_dtype", get_args(OutputDtype))
def test_the_engines_vectors_are_not_changed(output_dtype: OutputDtype) -> None:
    vectors = pooled(3, 16)
    vectors.setflags(write=False)
    before = vectors.copy()
    finish(vectors, dimensions=8, normalize=True, output_dtype=output_dtype)
    np.testing.assert_array_equal(vectors, before)


# --- quantise


@given(raw_vectors(multiple_of=8))
def test_unpacked_bits_are_the_signs(vectors: Floats) -> None:
    packed = finish(vectors, dimensions=None, normalize=True, output_dtype="ubinary")
    assert packed.dtype == np.uint8
    assert packed.shape == (len(vectors), vectors.shape[1] // 8)
    np.testing.assert_array_equal(np.unpackbits(packed.astype(np.uint8), axis=1), vectors > 0)


@given(raw_vectors(multiple_of=8))
def test_binary_is_ubinary_minus_128(vectors: Floats) -> None:
    signed = finish(vectors, dimensions=None, normalize=True, output_dtype="binary")
    unsigned = finish(vectors, dimensions=None, normalize=True, output_dtype="ubinary")
    assert signed.dtype == np.int8
    np.testing.assert_array_equal(signed.astype(np.int16), unsigned.astype(np.int16) - 128)


def test_the_first_dimension_is_the_highest_bit() -> None:
    vector = np.array([[1, -1, 0, -1, -1, -1, -1, 1]], dtype=np.float32)
    assert finish(vector, dimensions=None, normalize=True, output_dtype="ubinary").tolist() == [[0b10000001]]
    assert finish(vector, dimensions=None, normalize=True, output_dtype="binary").tolist() == [[0b10000001 - 128]]


@pytest.mark.parametrize("output_dtype", ["binary", "ubinary"])
def test_packed_bits_are_those_of_sentence_transformers(output_dtype: OutputDtype) -> None:
    from sentence_transformers.util.quantization import quantize_embeddings

    vectors = pooled(32, 384)
    finished = finish(vectors, dimensions=None, normalize=True, output_dtype=output_dtype)
    expected = np.asarray(quantize_embeddings(vectors, precision=output_dtype))
    assert finished.dtype == expected.dtype
    np.testing.assert_array_equal(finished, expected)


def test_bits_are_packed_after_the_cut() -> None:
    vectors = pooled(4, 64)
    packed = finish(vectors, dimensions=16, normalize=True, output_dtype="ubinary")
    np.testing.assert_array_equal(np.unpackbits(packed.astype(np.uint8), axis=1), vectors[:, :16] > 0)


@pytest.mark.parametrize("dim", [8, 64, 384, 1024, 4096])
def test_int8_vectors_keep_their_direction_at_every_length(dim: int) -> None:
    vectors = pooled(64, dim)
    quantized = finish(vectors, dimensions=None, normalize=True, output_dtype="int8").astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (quantized * unit).sum(axis=1) / np.linalg.norm(quantized, axis=1)
    assert cosines.min() > 0.9997


def test_int8_vectors_scale_back_by_the_documented_range() -> None:
    vectors = pooled(8, 384)
    quantized = finish(vectors, dimensions=None, normalize=True, output_dtype="int8")
    step = min(1, 8 / 384**0.5) / 127
    unit = finish(vectors, dimensions=None, normalize=True, output_dtype="float32")
    np.testing.assert_allclose(quantized * step, unit, rtol=0, atol=step / 2 + 1e-6)


def test_the_same_vector_has_the_same_int8_form_in_any_request() -> None:
    vectors = pooled(8, 384)
    together = finish(vectors, dimensions=None, normalize=True, output_dtype="int8")
    alone = finish(vectors[3:4], dimensions=None, normalize=True, output_dtype="int8")
    np.testing.assert_array_equal(alone[0], together[3])


def test_uint8_is_int8_plus_128() -> None:
    vectors = pooled(8, 100)
    signed = finish(vectors, dimensions=None, normalize=True, output_dtype="int8")
    unsigned = finish(vectors, dimensions=None, normalize=True, output_dtype="uint8")
    assert (signed.dtype, unsigned.dtype) == (np.int8, np.uint8)
    np.testing.assert_array_equal(unsigned.astype(np.int16), signed.astype(np.int16) + 128)


def test_components_beyond_the_range_are_clipped_and_keep_their_sign() -> None:
    vectors = np.zeros((2, 1024), dtype=np.float32)
    vectors[0, 5], vectors[1, 5] = 1, -1
    assert finish(vectors, dimensions=None, normalize=True, output_dtype="int8")[:, 5].tolist() == [127, -127]


@pytest.mark.parametrize(("output_dtype", "value"), [("float32", 0), ("int8", 0), ("uint8", 128), ("ubinary", 0)])
def test_a_zero_vector_stays_zero(output_dtype: OutputDtype, value: int) -> None:
    finished = finish(np.zeros((2, 16), np.float32), dimensions=None, normalize=True, output_dtype=output_dtype)
    assert (finished == value).all()


@pytest.mark.parametrize("output_dtype", ["binary", "ubinary"])
def test_bits_that_do_not_fill_a_byte_are_refused(output_dtype: OutputDtype) -> None:
    with pytest.raises(InvalidValue, match=f'"{output_dtype}".*8 dimensions a byte, but 100 ') as caught:
        finish(pooled(1, 384), dimensions=100, normalize=True, output_dtype=output_dtype)
    assert caught.value.param == "output_dtype"


@pytest.mark.parametrize("output_dtype", ["int8", "uint8"])
def test_int8_needs_unit_vectors(output_dtype: OutputDtype) -> None:
    with pytest.raises(InvalidValue, match=f'"{output_dtype}".*unit vectors'):
        finish(pooled(1, 16), dimensions=None, normalize=False, output_dtype=output_dtype)


@pytest.mark.parametrize("output_dtype", get_args(OutputDtype))
def test_every_type_is_accepted_before_the_work_and_made_after_it(output_dtype: OutputDtype) -> None:
    check_output_dtype(output_dtype, dimension=16, normalize=True)
    assert len(finish(pooled(3, 16), dimensions=None, normalize=True, output_dtype=output_dtype)) == 3
