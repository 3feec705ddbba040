"""Where models and texts come from: registries, downloads, documents, passages."""
