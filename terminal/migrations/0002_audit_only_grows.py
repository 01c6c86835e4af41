"""PostgreSQL refuses to change or delete audit events, whoever asks. SQLite has only the refusal in the model."""

from django.db import migrations

CREATE = """
CREATE FUNCTION terminal_audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Audit events are never changed or deleted.' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER terminal_audit_only_grows BEFORE UPDATE OR DELETE ON terminal_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION terminal_audit_only_grows();
"""
DROP = """
DROP TRIGGER terminal_audit_only_grows ON terminal_auditevent;
DROP FUNCTION terminal_audit_only_grows();
"""


def _on_postgres(statements):
    def run(apps, schema_editor):
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(statements)

    return run


class Migration(migrations.Migration):
    dependencies = [("terminal", "0001_initial")]
    operations = [migrations.RunPython(_on_postgres(CREATE), _on_postgres(DROP))]
