"""A small code interpreter that runs no code: it computes what people ask of CSV files, and draws it."""
