"""Host adapters, one folder a host: the only place that imports that host. Installed as `les_plugins.adapters`."""
