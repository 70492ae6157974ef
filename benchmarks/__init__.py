"""Speed and memory of scvibridge compared with scvi-tools and anndata2ri. See README.md."""
