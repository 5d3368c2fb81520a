import copy
import math

import pytest
import torch

from lightning_sotl.losses.window import LossWindow, accumulation_dtype


def filled(losses, scale=1):
    window = LossWindow(0)
    for loss in losses:
        window.add(torch.as_tensor(loss), scale)
    return window


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 1000])
def test_the_sum_is_bit_equal_to_a_loop_in_float64(n):
    losses = (torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) * 9,)
    losses = losses[0].tolist()
    total = 0.0
    for loss in losses:
        total += loss
    window = filled([torch.tensor(loss, dtype=torch.float64) for loss in losses])
    assert window.result() == (total, n)


def test_a_resume_at_any_loss_keeps_the_sum_bit_equal():
    losses = (torch.rand(600, dtype=torch.float64) * 3).unbind()
    whole = filled(losses).result()
    for at in (1, 256, 400):
        total, count = filled(losses[:at]).result()
        rest = LossWindow(0, total=total, count=count)
        for loss in losses[at:]:
            rest.add(loss)
        assert rest.result() == whole


def test_bfloat16_losses_are_added_in_float64():
    losses = [torch.tensor(2.3, dtype=torch.bfloat16)] * 20_000
    total, count = filled(losses).result()
    assert total == 20_000 * float(losses[0])
    assert count == 20_000


def test_losses_may_have_different_dtypes():
    mixed = [torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(0.25)]
    assert filled(mixed).result() == (0.75, 2)


def test_the_scale_may_change_in_the_middle():
    window = filled([0.5, 0.5], scale=2)
    window.add(torch.tensor(1.0), 1)
    assert window.result() == (3.0, 3)


def test_a_non_finite_loss_stays_in_the_sum():
    assert math.isnan(filled([1.0, math.nan]).result()[0])
    assert filled([1.0, math.inf]).result()[0] == math.inf


def test_memory_does_not_grow_with_the_number_of_losses():
    window = LossWindow(0)
    for _ in range(1000):
        window.add(torch.tensor(1.0))
        assert len(window._waiting) < LossWindow._BUFFER


def test_a_copy_is_independent():
    window = filled([1.0, 2.0])
    twin = copy.deepcopy(window)
    twin.add(torch.tensor(4.0))
    assert (window.result(), twin.result()) == ((3.0, 2), (7.0, 3))


def test_a_loss_that_was_changed_in_place_is_refused():
    loss = torch.tensor(1.0)
    window = filled([loss])
    loss.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place") as caught:
        window.result()
    assert str(caught.value) == (
        "The loss in the outputs of `training_step` was changed in place by a callback or by the "
        "module's `on_train_batch_end`, so its value is lost. Change a copy. Note that "
        "`trainer.strategy.reduce` works in place."
    )


def test_a_complex_loss_is_refused():
    with pytest.raises(TypeError, match="real") as caught:
        filled([torch.tensor(1j)]).result()
    assert str(caught.value) == "Expected the loss to be real but got torch.complex64."


def test_sums_are_float64_except_on_mps():
    assert accumulation_dtype(torch.device("cuda")) == torch.float64
    assert accumulation_dtype(torch.device("mps")) == torch.float32
