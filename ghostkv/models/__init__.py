"""What imports torch and transformers; lazily, since that takes seconds."""
