"""Local features of a photo, their aggregation to one vector, and the geometric comparison of two sets of them."""
