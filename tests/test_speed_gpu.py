"""The benchmark of GPUs, tried without one."""

import sys

import torch

from benchmarks import speed_gpu


def test_speed_gpu_prints_a_row_for_each_contender(monkeypatch, capsys):
    monkeypatch.setattr(speed_gpu.Timeline, "n_steps", 6)
    monkeypatch.setattr(speed_gpu, "N_WARM", 2)
    monkeypatch.setattr(speed_gpu, "COPIED_BYTES", 1 << 20)
    arguments = ["--device", "cpu", "--size", "32", "12", "24", "3", "--only", "ours"]
    monkeypatch.setattr(sys, "argv", ["speed_gpu", *arguments])
    precision = torch.get_float32_matmul_precision()
    speed_gpu.main()
    assert torch.get_float32_matmul_precision() == precision
    lines = capsys.readouterr().out.splitlines()
    rows = [line[2:-2].split(" | ") for line in lines if line.startswith("| ours")]
    assert len(rows) == 4
    for _, milliseconds, rate, of_all, *shares in rows:
        # Rounded for print: to tens of microseconds, to whole rows.
        assert float(rate) * float(milliseconds) / 1e3 > 0
        assert abs(float(of_all) - speed_gpu.N_SAES * float(rate)) <= speed_gpu.N_SAES
        assert all(float(share) >= 0 for share in shares)
