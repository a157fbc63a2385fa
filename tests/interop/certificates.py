"""Certificates for the tests, made by openssl(1) in a folder that goes with them: authorities, servers, clients, and
those that something is wrong with."""

import datetime
import subprocess
from pathlib import Path

CONFIGURATION = """
[req]
distinguished_name = name
prompt = no
[name]
[ca]
default_ca = authority
[authority]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = policy
[policy]
commonName = supplied
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = $ENV::PURPOSE
subjectAltName = $ENV::NAMES
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[intermediate]
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("-newkey", "rsa:2048")
ED25519 = ("-newkey", "ed25519")
HERE = "DNS:localhost, DNS:server.test, IP:127.0.0.1, IP:::1"


def moment(days):
    """Some days from now, as openssl(1) writes it."""
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    return when.strftime("%Y%m%d%H%M%SZ")


class Certificates:
    """NAME.crt is a certificate (with what leads to its authority), NAME.key its key, NAME.pem both."""

    def __init__(self, place):
        self.folder = Path(place)
        self.configuration = self.folder / "openssl.cnf"
        self.configuration.write_text(CONFIGURATION.format(folder=place))
        (self.folder / "index.txt").write_text("")
        self.root("ca", "Tepal test authority")
        self.root("stranger", "An authority that nobody knows")
        self.issue("server", HERE)
        self.issue("rsa", HERE, key=RSA)
        self.issue("ed25519", HERE, key=ED25519)
        self.issue("second", "DNS:second.test")
        self.issue("elsewhere", "DNS:elsewhere.test, IP:127.0.0.9")
        self.issue("address", "IP:127.0.0.1")
        self.issue("expired", HERE, begins=-400, ends=-35)
        self.issue("future", HERE, begins=35, ends=400)
        self.issue("unknown", HERE, issuer="stranger")
        self.issue("unfit", HERE, purpose="clientAuth")
        self.issue("client", "email:client@tepal.test", purpose="clientAuth")
        self.issue("old-client", "email:client@tepal.test", purpose="clientAuth", begins=-400, ends=-35)
        self.issue("strange-client", "email:client@stranger.test", purpose="clientAuth", issuer="stranger")
        self.issue("intermediate", "DNS:none", extensions="intermediate")
        self.issue("chained", HERE, issuer="intermediate")
        self.add("chained.crt", "intermediate.crt")
        self.sign_itself("self-signed")
        for key in sorted(self.folder.glob("*.key")):
            name = key.stem
            self.write(f"{name}.pem", (self.folder / f"{name}.crt").read_text() + key.read_text())

    def crt(self, name):
        return self.folder / f"{name}.crt"

    def key(self, name):
        return self.folder / f"{name}.key"

    def pem(self, name):
        return self.folder / f"{name}.pem"

    def file(self, name):
        return self.folder / name

    def write(self, name, text):
        (self.folder / name).write_text(text)

    def add(self, name, other):
        self.write(name, self.file(name).read_text() + self.file(other).read_text())

    def openssl(self, *words, names="DNS:none", purpose="serverAuth"):
        done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, timeout=30, check=False,
                              stdin=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin:/usr/local/bin", "NAMES": names,
                                                             "PURPOSE": purpose, "HOME": str(self.folder)})
        assert done.returncode == 0, f"openssl {' '.join(map(str, words))}: {done.stderr}"
        return done.stdout

    def root(self, name, title):
        self.openssl("req", "-x509", *EC, "-nodes", "-keyout", self.key(name), "-out", self.crt(name), "-days", "30",
                     "-subj", f"/CN={title}", "-config", self.configuration, "-extensions", "root")

    def sign_itself(self, name):
        self.openssl("req", "-x509", *EC, "-nodes", "-keyout", self.key(name), "-out", self.crt(name), "-days", "30",
                     "-subj", f"/CN={name}", "-config", self.configuration, "-extensions", "leaf", names=HERE)

    def issue(self, name, names, issuer="ca", purpose="serverAuth", key=EC, begins=-1, ends=30, extensions="leaf"):
        request = self.file(f"{name}.csr")
        self.openssl("req", "-new", *key, "-nodes", "-keyout", self.key(name), "-out", request, "-subj", f"/CN={name}",
                     "-config", self.configuration)
        self.openssl("ca", "-batch", "-notext", "-config", self.configuration, "-cert", self.crt(issuer),
                     "-keyfile", self.key(issuer), "-in", request, "-out", self.crt(name), "-extensions", extensions,
                     "-startdate", moment(begins), "-enddate", moment(ends), names=names, purpose=purpose)

    def answer_ocsp(self, name):
        """A file with what the authority would say of a certificate: DER."""
        response = self.file(f"{name}.ocsp")
        self.openssl("ocsp", "-index", self.file("index.txt"), "-CA", self.crt("ca"), "-rsigner", self.crt("ca"),
                     "-rkey", self.key("ca"), "-issuer", self.crt("ca"), "-cert", self.crt(name), "-ndays", "7",
                     "-respout", response)
        return response
