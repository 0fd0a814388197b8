"""An app of forty routes, most of them well written; each line with `# fault` is one that isn't."""
