# A node that runs ONNX models. Give it CYXWIZ_URL and CYXWIZ_JOIN_TOKEN at its first start; keep /var/lib/cyxwiz-node.
# Build from the repository's root:  docker build -f docker/node.Dockerfile -t cyxwiz-node .
FROM python:3.11-slim
RUN useradd --system --create-home --home-dir /var/lib/cyxwiz-node cyxwiz
WORKDIR /opt/cyxwiz
COPY requirements/node.txt requirements/
RUN pip install --no-cache-dir -r requirements/node.txt
COPY protocol protocol
COPY confinement confinement
COPY workers workers
ENV PYTHONUNBUFFERED=1
USER cyxwiz
COPY docker/node.sh /usr/local/bin/node
CMD ["sh", "/usr/local/bin/node"]
