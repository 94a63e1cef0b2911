"""Judgement: metrics, evidence, and the decisions that follow."""
