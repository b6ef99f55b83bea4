"""Pull-through cache: the interface of a registry, answered from upstream registries and kept in the store."""
