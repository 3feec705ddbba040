"""Ground floor: errors, atomic files, tables, buffers, logs and provenance."""
