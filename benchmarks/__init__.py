"""How fast and how large: scvibridge against scvi-tools and anndata2ri. See README.md."""
