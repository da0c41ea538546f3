"""Keep the store equal to the cluster: an API server watched, or a folder of manifests followed."""
