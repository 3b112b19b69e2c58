"""Metrics: a true SSIM, and an LPIPS that never stands in the way."""

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from mobiler2l_ns import metrics
from mobiler2l_ns.metrics import LazyLPIPS, image_metrics, psnr, ssim


def pictures():
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 12, 16)
    picture = torch.nn.functional.interpolate(picture, (48, 64), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    return picture, (picture + 0.05 * torch.randn_like(picture)).clamp(0, 1)


def test_psnr_of_a_known_error():
    assert float(psnr(torch.zeros(4, 4, 3), torch.full((4, 4, 3), 0.1))) == pytest.approx(20.0, abs=1e-4)


def reference_ssim(a, b):
    """Wang et al. 2004, an 11-pixel Gaussian window of sigma 1.5 over rows and columns, per channel."""
    x = torch.arange(11.0) - 5
    g = torch.exp(-(x**2) / (2 * 1.5**2))
    window = (g[:, None] * g[None] / g.sum() ** 2).expand(3, 1, 11, 11)

    def blur(image):
        return torch.nn.functional.conv2d(image[None], window, groups=3)

    a, b = a.permute(2, 0, 1), b.permute(2, 0, 1)
    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())


def test_ssim_runs_over_rows_and_columns():
    a, b = pictures()
    assert ssim(a, b) == pytest.approx(reference_ssim(a, b), abs=0.01)
    # What the official release computed: columns and channels as the image. It is another number.
    swapped = structural_similarity_index_measure(a[None], b[None], data_range=1.0, kernel_size=3, sigma=0.5)
    assert isinstance(swapped, torch.Tensor) and abs(ssim(a, b) - float(swapped)) > 0.02


def test_without_weights_lpips_is_left_out_with_one_warning(monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(LazyLPIPS, "_networks", {})
    monkeypatch.setattr("torchmetrics.functional.image.lpips._LPIPS.__init__", refuse)
    a, b = pictures()
    lpips = LazyLPIPS(normalize=True)
    assert set(image_metrics(a, b, lpips)) == {"psnr", "ssim"}
    assert set(image_metrics(a, b, lpips)) == {"psnr", "ssim"}
    assert capsys.readouterr().out.count("LPIPS is left out") == 1


def test_with_weights_lpips_is_reported(monkeypatch):
    class Constant:
        def to(self, _):
            return self

        def __call__(self, a, b):
            return (a - b).abs().mean()

        def reset(self):
            pass

    monkeypatch.setattr(metrics.LazyLPIPS, "_networks", {"alex": Constant()})
    a, b = pictures()
    assert image_metrics(a, b, LazyLPIPS())["lpips"] == pytest.approx(float((a - b).abs().mean()))


def test_lpips_never_enters_a_state_dict():
    assert not LazyLPIPS().state_dict()


@pytest.mark.parametrize("side", [1, 2, 3, 5, 10, 11])
def test_ssim_of_pictures_smaller_than_its_window(side):
    a = torch.rand(side, 40, 3)
    assert ssim(a, a) == pytest.approx(1.0, abs=1e-5)
    assert -1.0 < ssim(a, 1.0 - a) < 0.9
    assert ssim(a.transpose(0, 1), 1.0 - a.transpose(0, 1)) == pytest.approx(ssim(a, 1.0 - a), abs=1e-5)


def test_ssim_of_a_single_row_looks_at_its_neighbours():
    row = torch.linspace(0.2, 0.8, 40)[None, :, None].expand(1, 40, 3)
    rows = row.expand(40, 40, 3)
    assert ssim(row, row.flip(1)) == pytest.approx(ssim(rows, rows.flip(1)), abs=1e-4)


def test_what_a_mask_hides_counts_nowhere():
    a, b = pictures()
    mask = torch.zeros(48, 64, 1, dtype=torch.bool)
    mask[:, :32] = True
    broken = torch.where(mask, b, torch.zeros(3))
    expected = float(psnr(a[:, :32], b[:, :32]))
    assert float(psnr(broken, a, mask)) == pytest.approx(expected, abs=1e-4)
    seen = image_metrics(broken, a, LazyLPIPS(), mask)
    assert seen["psnr"] == pytest.approx(expected, abs=1e-4)
    # SSIM as of two pictures that are equal where the photo is hidden, whatever stands there.
    assert seen == image_metrics(torch.where(mask, b, torch.ones(3)), a, LazyLPIPS(), mask)
    assert seen["ssim"] > ssim(broken, a) + 0.2
    assert image_metrics(broken, a, LazyLPIPS(), torch.zeros_like(mask)) == {}
    assert bool(psnr(broken, a, torch.zeros_like(mask)).isnan())
