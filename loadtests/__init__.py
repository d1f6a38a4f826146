"""Makes chat load and measures it. The only package that imports locust or gevent."""
