import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import OuterRef, Subquery


def name_owners(apps, schema_editor):
    users = apps.get_model(settings.AUTH_USER_MODEL).objects.filter(pk=OuterRef('owner'))
    sessions = apps.get_model('terminal', 'TerminalSession').objects
    sessions.update(owner_name=Subquery(users.values('username')))


class Migration(migrations.Migration):

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ('terminal', '0008_node_owner'),
    ]

    operations = [
        migrations.AddField(
            model_name='terminalsession',
            name='owner_name',
            field=models.CharField(default='', max_length=150, verbose_name='user'),
            preserve_default=False,
        ),
        migrations.AlterField(
            model_name='terminalsession',
            name='owner',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.RunPython(name_owners, migrations.RunPython.noop),
    ]
