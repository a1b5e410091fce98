"""The pages that a person reads: one per participant, one per cohort."""
