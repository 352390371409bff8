-- Every sync call looks for accounts of which units are asked back: from the few of the last seconds, not from all leases of
-- the holder.
CREATE INDEX budget_accounts_recalled ON budget_accounts (recalled_at) WHERE recalled_at IS NOT NULL;
