"""Account: the ledger of usage, its roll-up to hours, days and months, and the tokenizer for estimates."""
