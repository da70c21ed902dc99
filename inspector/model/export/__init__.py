"""From a mask to a folder that anybody can load: without the removed units, checked, and whole.

forms ──> layout (which weights, under which names) + configs ──> writing ──> proof ──> the folder
"""
