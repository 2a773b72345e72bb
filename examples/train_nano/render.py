"""Render clips of scanned objects with exact masks: what flat cut-outs never show, an object's other sides.

    python examples/train_nano/render.py --data DATA_FOLDER --output out/nano/rendered --clips 400

Several objects lie on a table or float; some are carried and turned, the camera is held by hand. Every file holds the
frames of one clip and the number of the object on each pixel; 0 is where other pictures are put in while training.
A clip depends on its number alone, and clips that exist are kept: the command can be stopped and given again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import moderngl
import numpy as np
import trimesh
from clips import wander
from photos import Photos
from rendered import TABLE

from etam_edge.atomic import atomic_file

DRAWN, STORED = 384, 288
"""Sides in pixels: what is drawn, and what it is shrunk to."""
LENGTH = 12
SHADERS = {
    "vertex_shader": """
        #version 330
        uniform mat4 world, view;
        in vec3 in_position, in_normal;
        in vec2 in_uv;
        out vec3 normal, place;
        out vec2 uv;
        void main() {
            vec4 p = world * vec4(in_position, 1.0);
            place = p.xyz;
            normal = mat3(world) * in_normal;
            uv = in_uv;
            gl_Position = view * p;
        }""",
    "fragment_shader": """
        #version 330
        uniform sampler2D picture;
        uniform vec3 light, eye;
        uniform float ambient, shine, number;
        in vec3 normal, place;
        in vec2 uv;
        out vec4 colour;
        void main() {
            if (number > 0.0) { colour = vec4(number / 255.0, 0.0, 0.0, 1.0); return; }
            vec3 n = normalize(normal), to_eye = normalize(eye - place);
            if (dot(n, to_eye) < 0.0) n = -n;
            float lit = max(dot(n, light), 0.0);
            float gloss = pow(max(dot(n, normalize(light + to_eye)), 0.0), 24.0) * shine;
            colour = vec4(texture(picture, uv).rgb * (ambient + (1.0 - ambient) * lit) + gloss, 1.0);
        }""",
}


@dataclass
class Mesh:
    vertices: moderngl.VertexArray
    texture: moderngl.Texture | None
    """None where any picture may be mapped on."""
    corners: np.ndarray
    """Vertices, (V, 3), centred; the longest side is 1."""


@dataclass
class Body:
    """An object in a clip: its mesh, its picture, and a 4 x 4 matrix for every frame."""

    mesh: Mesh
    texture: moderngl.Texture
    shine: float
    worlds: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with meshes/ and photos/")
    parser.add_argument("--output", type=Path, default=Path("out/nano/rendered"))
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--first", type=int, default=0, help="number of the first clip")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    studio = Studio(sorted((options.data / "meshes").glob("*.glb")), Photos(options.data / "photos", held_out=False))
    for number in range(options.first, options.first + options.clips):
        file = options.output / f"{number:05d}.npz"
        if not file.exists():
            with atomic_file(file) as draft:
                np.savez(draft, **studio.clip(np.random.default_rng((20261128, number))))


class Studio:
    """Draws clips with OpenGL, on a processor where there is no GPU."""

    def __init__(self, files: list[Path], photos: Photos) -> None:
        self.photos = photos
        self.context = moderngl.create_standalone_context(backend="egl")
        self.context.enable(moderngl.DEPTH_TEST)
        self.program = self.context.program(**SHADERS)
        self.target = self.context.simple_framebuffer((DRAWN, DRAWN))
        self.meshes = [self._load(file) for file in files]
        square = np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], np.float32)
        self.table = self._mesh(
            square, np.tile([[0, 1.0, 0]], (4, 1)), square[:, [0, 2]], np.array([[0, 1, 2], [0, 2, 3]]), None
        )

    def _load(self, file: Path) -> Mesh:
        mesh = trimesh.load(file, force="mesh")
        corners = mesh.vertices - mesh.bounds.mean(0)
        corners = corners / np.ptp(corners, axis=0).max()
        image = getattr(getattr(mesh.visual, "material", None), "baseColorTexture", None)
        texture = self._texture(np.asarray(image.convert("RGB"))) if image is not None else None
        uv = mesh.visual.uv if getattr(mesh.visual, "uv", None) is not None else corners[:, :2]
        return self._mesh(corners, mesh.vertex_normals, uv, mesh.faces, texture)

    def _mesh(
        self,
        corners: np.ndarray,
        normals: np.ndarray,
        uv: np.ndarray,
        faces: np.ndarray,
        texture: moderngl.Texture | None,
    ) -> Mesh:
        data = np.hstack((corners, normals, uv)).astype("f4")
        buffers = self.context.buffer(data.tobytes()), self.context.buffer(np.asarray(faces, "i4").tobytes())
        names = "in_position", "in_normal", "in_uv"
        vertices = self.context.vertex_array(self.program, [(buffers[0], "3f 3f 2f", *names)], buffers[1])
        return Mesh(vertices, texture, np.asarray(corners))

    def _texture(self, image: np.ndarray) -> moderngl.Texture:
        image = np.ascontiguousarray(cv2.resize(image, (512, 512), interpolation=cv2.INTER_AREA)[::-1])
        texture = self.context.texture((512, 512), 3, image.tobytes())
        texture.build_mipmaps()
        texture.filter = moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR
        texture.anisotropy = 4.0
        return texture

    def _photo(self, rng: np.random.Generator) -> moderngl.Texture:
        image, _ = self.photos.draw(rng)
        side = int(min(image.shape[:2]) * rng.uniform(0.3, 1.0))
        y, x = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
        return self._texture(image[y : y + side, x : x + side])

    def clip(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        speed = float(np.exp(rng.uniform(np.log(0.15), np.log(1.3))))
        laid = rng.random() < 0.7
        borrowed: list[moderngl.Texture] = []
        bodies = [self._body(rng, laid, speed, borrowed) for _ in range(int(rng.integers(2, 7)))]
        if rng.random() < 0.3:  # a look-alike
            double = bodies[rng.integers(len(bodies))]
            bodies.append(Body(double.mesh, double.texture, double.shine, self._way(rng, double.mesh, laid, speed)))
        table = self._photo(rng) if laid and rng.random() < 0.85 else None
        if table is not None:
            borrowed.append(table)
        views, eyes = self._camera(rng, laid, speed)
        light = rng.normal(0, 1, 3) * [1, 0.3, 1] + [0, 1.2, 0]
        light = light / np.linalg.norm(light)
        self.program["light"].value = tuple(light)
        ambient, dark = float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.25, 0.65))
        self.program["ambient"].value = ambient
        pictures, marks = [], []
        for t in range(LENGTH):
            self.program["view"].write(views[t].T.astype("f4").tobytes())
            self.program["eye"].value = tuple(eyes[t])
            image = self._draw(bodies, table, t, marking=False)
            number = self._draw(bodies, table, t, marking=True)[..., 0]
            if table is not None and light[1] > 0.2:
                shadow = self._shadow(bodies, light, t)
                share = dark * cv2.GaussianBlur(shadow, (0, 0), 2.0) * (number == TABLE)
                image = (image * (1 - share[..., None])).astype(np.uint8)
            image = cv2.resize(image, (STORED, STORED), interpolation=cv2.INTER_AREA)
            number = cv2.resize(number, (STORED, STORED), interpolation=cv2.INTER_NEAREST)
            pictures.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 93])[1].ravel())
            marks.append(cv2.imencode(".png", number)[1].ravel())
        for texture in borrowed:
            texture.release()
        return {
            "pictures": np.concatenate(pictures),
            "picture_sizes": np.array([len(part) for part in pictures]),
            "marks": np.concatenate(marks),
            "mark_sizes": np.array([len(part) for part in marks]),
        }

    def _body(self, rng: np.random.Generator, laid: bool, speed: float, borrowed: list[moderngl.Texture]) -> Body:
        mesh = self.meshes[rng.integers(len(self.meshes))]
        texture = mesh.texture
        if texture is None or rng.random() < 0.1:
            texture = self._photo(rng)
            borrowed.append(texture)
        shine = float(rng.choice([0, rng.uniform(0.05, 0.5)]))
        return Body(mesh, texture, shine, self._way(rng, mesh, laid, speed))

    def _way(self, rng: np.random.Generator, mesh: Mesh, laid: bool, speed: float) -> np.ndarray:
        """Matrices of an object that lies, slides or is carried, (N, 4, 4)."""
        pose = trimesh.transformations.random_rotation_matrix(rng.random(3))[:3, :3]
        if laid:
            upright = trimesh.transformations.rotation_matrix(rng.choice([0, 1, 2, 3]) * np.pi / 2, [1, 0, 0])[:3, :3]
            about = trimesh.transformations.rotation_matrix(rng.uniform(0, 2 * np.pi), [0, 1, 0])[:3, :3]
            pose = about @ upright
        size = float(np.exp(rng.uniform(np.log(0.35), np.log(1.1))))
        still = laid and rng.random() < 0.45
        carried = not laid or rng.random() < 0.6
        lift = np.abs(wander(rng, LENGTH, 0.6 * speed)) if carried and not still else np.zeros(LENGTH)
        axis = rng.normal(0, 1, 3) if carried else np.array([0.0, 1.0, 0.0])
        turn = wander(rng, LENGTH, 0.0 if still else 1.6 * speed)
        path = np.stack([wander(rng, LENGTH, 0.0 if still else 0.7 * speed) for _ in range(2)], 1)
        place = rng.normal(0, 0.65, 2)
        height = 0.0 if laid else rng.normal(0, 0.4)
        worlds = np.zeros((LENGTH, 4, 4))
        for t in range(LENGTH):
            spin = trimesh.transformations.rotation_matrix(turn[t], axis)[:3, :3]
            linear = size * spin @ pose
            bottom = (mesh.corners[::7] @ linear.T)[:, 1].min() if laid else 0.0
            worlds[t, :3, :3] = linear
            worlds[t, :3, 3] = place[0] + path[t, 0], height - bottom + lift[t], place[1] + path[t, 1]
            worlds[t, 3, 3] = 1
        return worlds

    def _camera(self, rng: np.random.Generator, laid: bool, speed: float) -> tuple[np.ndarray, np.ndarray]:
        """Projection times view, (N, 4, 4), and where the eye is, (N, 3)."""
        strength = speed * float(rng.choice([0.1, rng.uniform(0.2, 1.0)]))
        turn = rng.uniform(0, 2 * np.pi) + wander(rng, LENGTH, 0.8 * strength)
        rise = np.clip(rng.uniform(0.2, 1.2) + wander(rng, LENGTH, 0.3 * strength), 0.08 if laid else -1.4, 1.5)
        far = rng.uniform(2.2, 4.0) * np.exp(wander(rng, LENGTH, 0.25 * strength))
        aim = np.stack([wander(rng, LENGTH, 0.3 * strength) for _ in range(3)], 1) + rng.normal(0, 0.15, 3)
        roll = wander(rng, LENGTH, 0.15 * strength) + rng.normal(0, 0.08)
        focal = 1 / np.tan(np.radians(rng.uniform(30, 58)) / 2)
        eyes = (
            far[:, None] * np.stack((np.cos(rise) * np.cos(turn), np.sin(rise), np.cos(rise) * np.sin(turn)), 1) + aim
        )
        if laid:
            eyes[:, 1] = np.maximum(eyes[:, 1], 0.15)
        near, horizon = 0.1, 30.0
        project = np.zeros((4, 4))
        project[0, 0] = project[1, 1] = focal
        project[2, 2], project[2, 3] = (horizon + near) / (near - horizon), 2 * horizon * near / (near - horizon)
        project[3, 2] = -1
        views = np.zeros((LENGTH, 4, 4))
        for t in range(LENGTH):
            back = eyes[t] - aim[t]
            back = back / np.linalg.norm(back)
            right = np.cross([np.sin(roll[t]), np.cos(roll[t]), 0], back)
            right = right / np.linalg.norm(right)
            view = np.eye(4)
            view[:3, :3] = np.stack((right, np.cross(back, right), back))
            view[:3, 3] = -view[:3, :3] @ eyes[t]
            views[t] = project @ view
        return views, eyes

    def _draw(self, bodies: list[Body], table: moderngl.Texture | None, t: int, marking: bool) -> np.ndarray:
        self.target.use()
        self.target.clear(0.0, 0.0, 0.0, 1.0)
        if table is not None:
            ground = np.diag([4.0, 1, 4, 1])
            self._one(self.table, table, ground, 0.0, TABLE if marking else 0)
        for number, body in enumerate(bodies, 1):
            self._one(body.mesh, body.texture, body.worlds[t], body.shine, number if marking else 0)
        return self._read()

    def _shadow(self, bodies: list[Body], light: np.ndarray, t: int) -> np.ndarray:
        """Where the objects' shadows fall on the table, float32 in [0, 1]."""
        flatten = np.eye(4)
        flatten[:3, 1] = -light / light[1]
        flatten[1] = [0, 0, 0, 0.002]
        self.target.clear(0.0, 0.0, 0.0, 1.0)
        for body in bodies:
            self._one(body.mesh, body.texture, flatten @ body.worlds[t], 0.0, 255)
        return self._read()[..., 0].astype(np.float32) / 255

    def _one(self, mesh: Mesh, texture: moderngl.Texture, world: np.ndarray, shine: float, number: int) -> None:
        texture.use()
        self.program["world"].write(world.T.astype("f4").tobytes())
        self.program["shine"].value, self.program["number"].value = shine, float(number)
        mesh.vertices.render()

    def _read(self) -> np.ndarray:
        data = np.frombuffer(self.target.read(components=3), np.uint8).reshape(DRAWN, DRAWN, 3)
        return np.ascontiguousarray(data[::-1])


if __name__ == "__main__":
    main()
