"""Read and write matrices block by block, in memory, on disk and on Dask workers."""
