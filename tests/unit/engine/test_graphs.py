"""The sizes to which batches are filled up for CUDA graphs."""

from llm_cls.engine.graphs import bucket_size


def test_bucket_sizes_are_few_and_close_above_the_batch() -> None:
    sizes = [bucket_size(n) for n in range(1, 5000)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert max(size / n for n, size in enumerate(sizes, 1) if n > 256) <= 1 + 1 / 16
    assert len(set(sizes)) < 100
