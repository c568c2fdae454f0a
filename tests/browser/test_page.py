"""The pack on the real page."""


def test_every_node_is_found_in_the_search_box_and_put_on_the_canvas(page, server):
    for name, node in server.nodes().items():
        page.clear()
        page.add(node["display_name"], node["display_name"], at=(700, 300))
        assert page.types() == [name]
        assert page.complaints() == ""


def test_a_node_that_is_not_installed_is_complained_of(page, server):
    page.clear()
    page.add("Load LGVI", "Load LGVI", at=(400, 300))
    workflow = page.saved()
    workflow["nodes"][0]["type"] = "NoSuchNode"
    page.load(workflow)
    assert "NoSuchNode" in page.complaints()
