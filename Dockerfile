# pipnet serve on a processor: docker compose up, see docs/service.md.
FROM python:3.12-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir '.[serve]'

RUN useradd --uid 10001 pipnet
USER pipnet
WORKDIR /
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --start-period=30s CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=3)"
# The network of a container is its own: compose.yaml publishes the port on this machine only.
CMD ["pipnet", "serve", "--host", "0.0.0.0", "--max-pixels", "25000000"]
