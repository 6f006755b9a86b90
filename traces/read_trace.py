#!/usr/bin/env python3
"""Read a dataset of a kvtrace trace, bf16 included, which h5py alone reads slowly.

    python3 read_trace.py TRACE.h5 /layers/000/k       prints its shape and first values
    from read_trace import read                        in a program: read(h5py.File(...)["/layers/000/k"])
"""
import h5py
import numpy as np


def read(ds):
    """The dataset as an array; bf16, a custom 2-byte float that is not IEEE half, as float32."""
    t = ds.id.get_type()
    if not isinstance(t, h5py.h5t.TypeFloatID) or t.get_size() != 2 or t.get_ebias() != 127:
        return ds[...]
    bits = np.empty(ds.shape, np.uint16)
    if ds.size:                                            # memory type = file type: no conversion
        ds.id.read(h5py.h5s.ALL, h5py.h5s.ALL, bits, mtype=t)
    return (bits.astype(np.uint32) << 16).view(np.float32)


if __name__ == "__main__":
    import sys
    with h5py.File(sys.argv[1], "r") as f:
        x = read(f[sys.argv[2]])
        print(x.dtype, x.shape, x.reshape(-1)[:8])
