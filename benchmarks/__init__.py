"""How accurate and how fast the estimators are, against what is possible at all."""
