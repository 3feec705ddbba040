"""What the kernels do on a card, measured: `python -m ghostkv.gpu.bench --out DIR --minutes 8`."""
