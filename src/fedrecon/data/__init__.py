"""The clients' data: client files, tables and arrays, sampling of cohorts, random splits, hold-out."""
