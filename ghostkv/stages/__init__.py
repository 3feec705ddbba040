"""One module per stage of the pipeline: paths and plain parameters in, files out."""
